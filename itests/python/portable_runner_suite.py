"""Runs the Python SDK's PortableRunnerTest against a job endpoint.

Prints what a Go test binary prints under -test.v, so that one reader serves
both. With --list it prints the names of the tests.
"""

import logging
import unittest

from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.portability import portable_runner_test

import suite_lines

ARGS = suite_lines.parse()


class EndpointTest(portable_runner_test.PortableRunnerTest):
  """PortableRunnerTest with our endpoint in place of a server of its own."""

  @classmethod
  def _create_job_endpoint(cls):
    return ARGS.endpoint

  def create_options(self):
    options = super().create_options()
    portable = options.view_as(PortableOptions)
    portable.environment_type = ARGS.environment_type
    portable.environment_config = ARGS.environment_config
    options.view_as(StandardOptions).streaming = ARGS.streaming
    return options

  def test_batch_rebatch_pardos(self):
    if ARGS.environment_type != 'LOOPBACK':
      # As the suite itself has it for workers in other processes.
      raise unittest.SkipTest('looks for a warning that the worker prints')
    super().test_batch_rebatch_pardos()


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  suite_lines.main(ARGS, EndpointTest)
