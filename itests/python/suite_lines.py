"""What the suites have in common: their flags, and how they tell results."""

import argparse
import sys
import traceback
import unittest


def parse():
  parser = argparse.ArgumentParser()
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--endpoint')
  parser.add_argument('--environment_type', default='LOOPBACK')
  parser.add_argument('--environment_config', default=None)
  parser.add_argument('--streaming', action='store_true')
  parser.add_argument('names', nargs='*')
  return parser.parse_args()


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


def main(args, case):
  loader = unittest.TestLoader()
  if args.list:
    print('\n'.join(loader.getTestCaseNames(case)))
    return
  names = args.names or loader.getTestCaseNames(case)
  suite = unittest.TestSuite(case(name) for name in names)
  suite.run(Lines())
  # Threads of a client that gave up must not keep the process.
  sys.stdout.flush()
  sys.stderr.flush()
