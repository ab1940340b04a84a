"""Runs the Python SDK's PortableRunnerTest against a job endpoint.

Prints what a Go test binary prints under -test.v, so that one reader serves
both. With --list it prints the names of the tests.
"""

import argparse
import logging
import sys
import traceback
import unittest

from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.runners.portability import portable_runner_test


def parse():
  parser = argparse.ArgumentParser()
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--endpoint')
  parser.add_argument('--environment_type', default='LOOPBACK')
  parser.add_argument('--environment_config', default=None)
  parser.add_argument('names', nargs='*')
  return parser.parse_args()


ARGS = parse()


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
    return options

  def test_batch_rebatch_pardos(self):
    if ARGS.environment_type != 'LOOPBACK':
      # As the suite itself has it for workers in other processes.
      raise unittest.SkipTest('looks for a warning that the worker prints')
    super().test_batch_rebatch_pardos()


class Lines(unittest.TestResult):
  """Prints each result when it is there."""

  def startTest(self, test):
    super().startTest(test)
    print('=== RUN   ' + test._testMethodName, flush=True)

  def _end(self, test, status, text=''):
    if text:
      print(text)
    print('--- %s: %s' % (status, test._testMethodName), flush=True)

  def addSuccess(self, test):
    self._end(test, 'PASS')

  def addSkip(self, test, reason):
    self._end(test, 'SKIP', reason)

  def addExpectedFailure(self, test, err):
    self._end(test, 'SKIP', 'fails as the suite expects')

  def addUnexpectedSuccess(self, test):
    self._end(test, 'FAIL', 'the suite expects a failure')

  def addError(self, test, err):
    self._end(test, 'FAIL', ''.join(traceback.format_exception(*err)))

  addFailure = addError

  def addSubTest(self, test, subtest, err):
    if err is not None:
      print(''.join(traceback.format_exception(*err)))
      self._end(test, 'FAIL')


def main():
  logging.getLogger().setLevel(logging.WARNING)
  loader = unittest.TestLoader()
  if ARGS.list:
    print('\n'.join(loader.getTestCaseNames(EndpointTest)))
    return
  names = ARGS.names or loader.getTestCaseNames(EndpointTest)
  suite = unittest.TestSuite(EndpointTest(name) for name in names)
  suite.run(Lines())
  # Threads of a client that gave up must not keep the process.
  sys.stdout.flush()
  sys.stderr.flush()


if __name__ == '__main__':
  main()
