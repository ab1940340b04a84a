"""Runs the Python SDK's PortableRunnerTest against a job endpoint.

Prints what a Go test binary prints under -test.v, so that one reader serves
both. With --list it prints the names of the tests.
"""

import logging
import threading
import time
import unittest

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import portable_runner_test
from apache_beam.runners.portability.fn_api_runner.fn_runner_test import FnApiRunnerTest
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

import suite_lines

ARGS = suite_lines.parse()

# What the suite skips wherever it runs, and we don't.
SKIPPED = ('test_batch_pardo_trigger_flush',
           'test_pardo_large_input',
           'test_pardo_side_input_sparse_dependencies',
           'test_teststream_pardo_timers',
           'test_large_elements')


class Workers:
  """Lets the client's own workers start, or has them wait."""
  may_start = threading.Event()
  may_start.set()
  start = BeamFnExternalWorkerPoolServicer.StartWorker

  def later(servicer, request, context):
    Workers.may_start.wait()
    return Workers.start(servicer, request, context)

  BeamFnExternalWorkerPoolServicer.StartWorker = later


class DrainedPipeline(beam.Pipeline):
  """A streaming pipeline that is drained before its first worker is there, so
  that none of its sources has been read."""
  def run(self, *args, **kwargs):
    self.options.view_as(StandardOptions).streaming = True
    Workers.may_start.clear()
    try:
      run = super().run(*args, **kwargs)
      self.drain(run._job_service, run._job_id)
    finally:
      Workers.may_start.set()
    return Drained(run)

  @staticmethod
  def drain(jobs, job):
    states = beam_job_api_pb2.JobState
    while jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job)).state != states.RUNNING:
      time.sleep(0.01)
    jobs.Drain(beam_job_api_pb2.DrainJobRequest(job_id=job))
    while jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job)).state == states.RUNNING:
      time.sleep(0.01)


class Drained:
  """The result of a job that is drained. Its client takes any end but DONE for
  an error."""
  def __init__(self, run):
    self.run = run

  def wait_until_finish(self):
    try:
      self.run.wait_until_finish()
    except RuntimeError:
      if self.run.state != 'DRAINED':
        raise


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
    if self._testMethodName in SKIPPED:
      # The suite has outputs sent by the clock, too, which the SDK's default is
      # not to do: elements that are written while its timer empties a buffer are
      # lost (flush in data_plane.py), whatever the runner.
      debug = options.view_as(DebugOptions)
      debug.experiments = [e for e in debug.experiments if not e.startswith('data_buffer_time_limit_ms')]
    return options

  def create_pipeline(self, is_drain=False):
    if is_drain:
      return DrainedPipeline(self.get_runner(), self.create_options())
    return super().create_pipeline()

  def test_batch_rebatch_pardos(self):
    if ARGS.environment_type != 'LOOPBACK':
      # As the suite itself has it for workers in other processes.
      raise unittest.SkipTest('looks for a warning that the worker prints')
    super().test_batch_rebatch_pardos()


def drained(name):
  """A test that the suite skips where jobs can't be drained. What drains them
  here needs workers that it can have wait."""
  def test(self):
    if ARGS.environment_type != 'LOOPBACK':
      raise unittest.SkipTest('drains jobs whose workers are in the client')
    getattr(FnApiRunnerTest, name)(self)
  return test


for name in ('test_sdf_default_truncate_when_bounded',
             'test_sdf_default_truncate_when_unbounded',
             'test_sdf_with_truncate',
             'test_draining_sdf_with_sdf_initiated_checkpointing'):
  setattr(EndpointTest, name, drained(name))

for name in SKIPPED:
  setattr(EndpointTest, name, getattr(FnApiRunnerTest, name).__wrapped__)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  suite_lines.main(ARGS, EndpointTest)
