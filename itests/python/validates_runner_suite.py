"""Runs the Python SDK's tests that are marked it_validatesrunner against a job
endpoint.

Prints what a Go test binary prints under -test.v, so that one reader serves
both. With --list it prints the names of the tests.
"""

import os
import sys
import time

import apache_beam
import pytest
from apache_beam.examples.inference import run_inference_side_inputs
from apache_beam.testing import test_pipeline
from apache_beam.transforms.deduplicate_test import DeduplicateTest

import suite_lines

MARK = 'it_validatesrunner'

# A pipeline that is to run for twenty minutes, by the clock: it looks at what it
# has at that time, and what comes when. It is told that it began long ago.
SLOW = 'test_run_inference_with_side_inputin_streaming'
AGO = 20 * 60 - 25  # seconds

# What the SDK skips for runners that don't support TestStream, and we don't. Its
# sibling test_deduplication_with_event_time was never run by anyone: it wants a
# timer to fire at a watermark that has come to its time, and not passed it, which
# is before Beam's timers are due.
UNSKIPPED = 'test_deduplication_with_processing_time'

ARGS = suite_lines.parse()
ROOT = os.path.dirname(apache_beam.__file__)


def files():
  """The modules of the SDK in which tests are marked; those of Dataflow are for
  it alone."""
  for folder, _, names in os.walk(ROOT):
    if os.path.basename(folder) == 'dataflow':
      continue
    for name in sorted(names):
      path = os.path.join(folder, name)
      if name.endswith('_test.py'):
        with open(path, encoding='utf-8') as f:
          if MARK in f.read():
            yield path


def named(item):
  """A test's name, without spaces and slashes."""
  path = os.path.relpath(str(item.path), ROOT)[:-len('.py')]
  return '.'.join([path.replace(os.sep, '.')] + item.nodeid.split('::')[1:]).replace(' ', '_').replace('/', '_')


class LongAgo:
  """What a module asks for the time. The first answer is that of long ago."""
  def __init__(self):
    self.asked = False

  def time(self):
    if self.asked:
      return time.time()
    self.asked = True
    return time.time() - AGO


class Lines:
  """A pytest plugin that prints each result when it is there."""
  def __init__(self):
    self.names = {}
    self.status = {}

  def pytest_collectreport(self, report):
    if report.failed:  # else its tests would be missing without a word
      sys.exit('%s: %s' % (report.nodeid, report.longrepr))

  def pytest_configure(self, config):
    config.addinivalue_line('markers', MARK + ': needs a runner')

  @pytest.hookimpl(trylast=True)  # pytest has dropped those without the mark
  def pytest_collection_modifyitems(self, items):
    items[:] = [i for i in items if not ARGS.names or named(i) in ARGS.names]
    for i in items:
      self.names[i.nodeid] = named(i)
    if ARGS.list:
      print('\n'.join(self.names.values()))

  def pytest_runtest_logstart(self, nodeid):
    print('=== RUN   ' + self.names[nodeid], flush=True)
    self.status[nodeid] = 'PASS'
    if nodeid.endswith(SLOW):
      run_inference_side_inputs.time = LongAgo()

  def pytest_runtest_logreport(self, report):
    if report.failed:
      self.status[report.nodeid] = 'FAIL'
    elif report.skipped and self.status[report.nodeid] == 'PASS':
      self.status[report.nodeid] = 'SKIP'
    if report.longrepr:
      print(report.longrepr)

  def pytest_runtest_logfinish(self, nodeid):
    print('--- %s: %s' % (self.status[nodeid], self.names[nodeid]), flush=True)


def main():
  setattr(DeduplicateTest, UNSKIPPED, getattr(DeduplicateTest, UNSKIPPED).__wrapped__)
  options = [
      '--runner=PortableRunner',
      '--job_endpoint=%s' % ARGS.endpoint,
      '--environment_type=%s' % ARGS.environment_type,
  ]
  if ARGS.environment_config:
    options.append('--environment_config=%s' % ARGS.environment_config)
  if ARGS.streaming:
    options.append('--streaming')
  test_pipeline.TestPipeline.pytest_test_pipeline_options = ' '.join(options)
  args = ['-p', 'no:cacheprovider', '-p', 'no:terminal', '--rootdir', ROOT, '-m', MARK]
  if ARGS.list:
    args.append('--collect-only')
  sys.argv = sys.argv[:1]  # TestPipeline reads it
  pytest.main(args + list(files()), plugins=[Lines()])


if __name__ == '__main__':
  main()
