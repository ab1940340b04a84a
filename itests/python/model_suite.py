"""Pipelines of our own that show what the SDK's suites leave out of the model,
run against a job endpoint.

Prints what a Go test binary prints under -test.v, so that one reader serves
both. With --list it prints the names of the tests.
"""

import logging
import os
import sys
import time
import types
import typing
import unittest

import apache_beam as beam
from apache_beam import coders
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.metrics import Metrics
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import userstate
from apache_beam.transforms import window
from apache_beam.utils.timestamp import Duration
from apache_beam.utils.timestamp import Timestamp

import suite_lines

ARGS = suite_lines.parse()


class ParityWindow(window.BoundedWindow):
  """Ten seconds, of odd or of even numbers."""
  def __init__(self, end, odd):
    super().__init__(end)
    self.odd = odd

  def __hash__(self):
    return hash((self.end, self.odd))

  def __eq__(self, other):
    return type(self) == type(other) and (self.end, self.odd) == (other.end, other.odd)


class ParityWindowCoder(coders.Coder):
  kv = coders.TupleCoder([coders.TimestampCoder(), coders.BooleanCoder()])

  def encode(self, w):
    return self.kv.encode((w.end, w.odd))

  def decode(self, b):
    end, odd = self.kv.decode(b)
    return ParityWindow(end, odd)

  def is_deterministic(self):
    return True


class ParityWindows(window.NonMergingWindowFn):
  def assign(self, context):
    at = int(context.timestamp)
    return [ParityWindow(Timestamp(at - at % 10 + 10), at % 2 == 1)]

  def get_window_coder(self):
    return ParityWindowCoder()


class ParitySessions(window.WindowFn):
  """Windows of one parity merge if they are less than ten seconds apart."""
  def assign(self, context):
    at = int(context.timestamp)
    return [ParityWindow(Timestamp(at + 10), at % 2 == 1)]

  def merge(self, context):
    for odd in (False, True):
      group = []
      for w in sorted((w for w in context.windows if w.odd == odd), key=lambda w: w.end):
        if group and w.end - group[-1].end >= 10:
          self.become_one(context, group)
          group = []
        group.append(w)
      self.become_one(context, group)

  @staticmethod
  def become_one(context, group):
    if len(group) > 1:
      context.merge(group, group[-1])

  def get_window_coder(self):
    return ParityWindowCoder()


def grouped(kv, w=beam.DoFn.WindowParam):
  return kv[0], sorted(kv[1]), int(w.end)


class CountInState(beam.DoFn):
  COUNT = userstate.CombiningValueStateSpec('count', sum)
  END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)

  def process(self, kv, w=beam.DoFn.WindowParam, count=beam.DoFn.StateParam(COUNT), end=beam.DoFn.TimerParam(END)):
    count.add(1)
    end.set(w.max_timestamp())

  @userstate.on_timer(END)
  def ended(self, key=beam.DoFn.KeyParam, w=beam.DoFn.WindowParam, count=beam.DoFn.StateParam(COUNT)):
    yield key, count.read(), int(w.end)


class RunningCount(beam.DoFn):
  COUNT = userstate.CombiningValueStateSpec('count', sum)

  def process(self, kv, count=beam.DoFn.StateParam(COUNT)):
    count.add(1)
    yield kv[0], count.read()


def documented(page):
  """What the Python of a page of the documents defines."""
  path = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'docs', page)
  with open(path, encoding='utf-8') as f:
    code = f.read().split('```python\n')[1].split('```')[0]
  # A module, so that workers in other threads find its classes.
  module = types.ModuleType(page.replace('.', '_'))
  sys.modules[module.__name__] = module
  exec(code, module.__dict__)
  return module


class Measured(beam.DoFn):
  """Tells each kind of metric that the SDK has."""
  def process(self, n):
    Metrics.counter('kinds', 'counter').inc(n)
    Metrics.distribution('kinds', 'distribution').update(n)
    Metrics.gauge('kinds', 'gauge').set(7)
    Metrics.string_set('kinds', 'strings').add('n%d' % n)
    Metrics.bounded_trie('kinds', 'paths').add(('a', 'b%d' % n))
    yield n


READ = Metrics.counter('model', 'read')
KEPT = Metrics.counter('model', 'kept')
FIRED = Metrics.counter('model', 'fired')
LOOPED = Metrics.counter('model', 'looped')


class Forever(beam.DoFn):
  """Reads ten numbers a second, for ever."""
  class Provider(beam.RestrictionProvider):
    def initial_restriction(self, element):
      return OffsetRange(0, 1 << 40)

    def create_tracker(self, restriction):
      return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element, restriction):
      return 1

    def truncate(self, element, restriction):
      return OffsetRange(restriction.start, restriction.start + 3)

  @beam.DoFn.unbounded_per_element()
  def process(self, _, tracker=beam.DoFn.RestrictionParam(Provider())):
    at = tracker.current_restriction().start
    if not tracker.try_claim(at):
      return
    READ.inc()
    yield at % 3, at
    while tracker.try_claim(at + 1):
      at += 1
      READ.inc()
      yield at % 3, at
      if at % 10 == 0:
        tracker.defer_remainder(Duration(1))
        return


class Loop(beam.DoFn):
  """Sets a timer for later whenever a timer fires, and one for far in the
  future."""
  AGAIN = userstate.TimerSpec('again', userstate.TimeDomain.REAL_TIME)
  FAR = userstate.TimerSpec('far', userstate.TimeDomain.REAL_TIME)

  def process(self, kv, again=beam.DoFn.TimerParam(AGAIN), far=beam.DoFn.TimerParam(FAR)):
    again.set(time.time() + 0.1)
    far.set(time.time() + 10000)
    yield kv

  @userstate.on_timer(AGAIN)
  def once_more(self, again=beam.DoFn.TimerParam(AGAIN)):
    LOOPED.inc()
    again.set(time.time() + 0.1)

  @userstate.on_timer(FAR)
  def far_away(self):
    FIRED.inc()


def keep(kv):
  KEPT.inc(len(list(kv[1])))
  return kv[0]


class ModelTest(unittest.TestCase):
  def options(self):
    flags = ['--runner=PortableRunner', '--job_endpoint=' + ARGS.endpoint, '--environment_type=' + ARGS.environment_type]
    if ARGS.environment_config:
      flags.append('--environment_config=' + ARGS.environment_config)
    if ARGS.streaming:
      flags.append('--streaming')
    return PipelineOptions(flags)

  def pipeline(self):
    return beam.Pipeline(options=self.options())

  @staticmethod
  def at(p, times):
    return p | beam.Create(times) | beam.Map(lambda t: window.TimestampedValue(('k', t), t))

  def test_group_in_custom_windows(self):
    with self.pipeline() as p:
      res = self.at(p, [1, 2, 3, 4, 11]) | beam.WindowInto(ParityWindows()) | beam.GroupByKey() | beam.Map(grouped)
      assert_that(res, equal_to([('k', [1, 3], 10), ('k', [2, 4], 10), ('k', [11], 20)]))

  def test_group_in_custom_merging_windows(self):
    with self.pipeline() as p:
      res = self.at(p, [1, 2, 5, 30, 12, 14, 32, 51]) | beam.WindowInto(ParitySessions()) | beam.GroupByKey() | beam.Map(grouped)
      assert_that(res, equal_to([('k', [1, 5], 15), ('k', [2], 12), ('k', [12, 14], 24), ('k', [30, 32], 42), ('k', [51], 61)]))

  def test_combine_in_custom_merging_windows(self):
    with self.pipeline() as p:
      res = self.at(p, [1, 2, 5, 30, 4, 32]) | beam.WindowInto(ParitySessions()) | beam.CombinePerKey(sum)
      assert_that(res, equal_to([('k', 6), ('k', 6), ('k', 62)]))

  def test_many_keys_in_custom_merging_windows(self):
    with self.pipeline() as p:
      res = (
          p | beam.Create(range(2000))
          | beam.Map(lambda i: window.TimestampedValue((i % 100, i), 2 * (i // 500)))
          | beam.WindowInto(ParitySessions()) | beam.GroupByKey()
          | beam.Map(lambda kv: (kv[0], len(list(kv[1])))))
      assert_that(res, equal_to([(i, 20) for i in range(100)]))

  def test_state_in_custom_windows(self):
    with self.pipeline() as p:
      res = self.at(p, [1, 2, 3, 4, 5, 11]) | beam.WindowInto(ParityWindows()) | beam.ParDo(CountInState())
      assert_that(res, equal_to([('k', 3, 10), ('k', 2, 10), ('k', 1, 20)]))

  def test_side_input_in_custom_windows(self):
    with self.pipeline() as p:
      # The SDK maps a window to that of its last timestamp: to the odd ones.
      side = p | 'Side' >> beam.Create([1, 2, 3, 11]) | 'Late' >> beam.Map(lambda t: window.TimestampedValue(t, t)) | 'SideWindows' >> beam.WindowInto(ParityWindows())
      main = p | 'Main' >> beam.Create([4, 5, 16]) | 'Early' >> beam.Map(lambda t: window.TimestampedValue(t, t)) | 'MainWindows' >> beam.WindowInto(ParityWindows())
      res = main | beam.Map(lambda t, s: (t, sorted(s)), beam.pvalue.AsIter(side))
      assert_that(res, equal_to([(4, [1, 3]), (5, [1, 3]), (16, [11])]))

  def test_side_input_by_key_in_fixed_windows(self):
    with self.pipeline() as p:
      side = self.at(p, [1, 2, 11]) | 'SideWindows' >> beam.WindowInto(window.FixedWindows(10))
      main = p | 'Main' >> beam.Create([4, 16]) | 'Early' >> beam.Map(lambda t: window.TimestampedValue(t, t)) | 'MainWindows' >> beam.WindowInto(window.FixedWindows(5))
      res = main | beam.Map(lambda t, s: (t, sorted(s['k'])), beam.pvalue.AsMultiMap(side))
      assert_that(res, equal_to([(4, [1, 2]), (16, [11])]))

  def test_merging_as_time_passes(self):
    stream = (
        TestStream().advance_watermark_to(0)
        .add_elements([window.TimestampedValue(('k', 1), 1), window.TimestampedValue(('k', 2), 2)])
        .advance_watermark_to(5)
        .add_elements([window.TimestampedValue(('k', 7), 7)])
        .advance_watermark_to(14)
        .add_elements([window.TimestampedValue(('k', 14), 14), window.TimestampedValue(('k', 15), 15)])
        .advance_watermark_to_infinity())
    with self.pipeline() as p:
      res = p | stream | beam.WindowInto(ParitySessions()) | beam.GroupByKey() | beam.Map(grouped)
      # 2 and 14 are twelve seconds apart, 7 and 15 eight.
      assert_that(res, equal_to([('k', [1, 7, 15], 25), ('k', [2], 12), ('k', [14], 24)]))

  def test_late_elements_are_counted(self):
    stream = (
        TestStream().advance_watermark_to(0)
        .add_elements([window.TimestampedValue(('k', 1), 1)])
        .advance_watermark_to(20)
        .add_elements([window.TimestampedValue(('k', 2), 2), window.TimestampedValue(('k', 25), 25)])
        .advance_watermark_to_infinity())
    p = self.pipeline()
    res = (
        p | stream | beam.WindowInto(window.FixedWindows(10), trigger=trigger.AfterWatermark(), accumulation_mode=trigger.AccumulationMode.DISCARDING)
        | beam.GroupByKey() | beam.Map(grouped))
    assert_that(res, equal_to([('k', [1], 10), ('k', [25], 30)]))
    run = p.run()
    run.wait_until_finish()
    late = run.metrics().query(MetricsFilter().with_namespace('trestle').with_name('dropped_due_to_lateness'))['counters']
    self.assertEqual([1], [c.result for c in late])

  def test_state_of_a_stream_without_types(self):
    """The SDK writes the events as anything, and knows what they make as pairs."""
    stream = TestStream().add_elements([('k', 1), ('l', 2)]).add_elements([('k', 3)]).advance_watermark_to_infinity()
    with self.pipeline() as p:
      res = p | stream | beam.ParDo(RunningCount())
      assert_that(res, equal_to([('k', 1), ('k', 2), ('l', 1)]))

  def test_timer_at_the_end_of_a_window(self):
    """The SDK's own transform gives what is left over by a timer at the first instant that is not in the window."""
    with self.pipeline() as p:
      res = (
          self.at(p, [1, 2, 3, 11, 12, 25])
          | beam.WindowInto(window.FixedWindows(10)) | beam.GroupIntoBatches(2)
          | beam.Map(lambda kv, w=beam.DoFn.WindowParam: (int(w.end), len(kv[1]))))
      assert_that(res, equal_to([(10, 2), (10, 1), (20, 2), (30, 1)]))

  def test_metrics_of_all_kinds(self):
    p = self.pipeline()
    _ = p | beam.Create([1, 2, 3, 2]) | beam.ParDo(Measured()) | beam.Map(lambda n: (n, n)) | beam.CombinePerKey(sum)
    run = p.run()
    run.wait_until_finish()
    got = run.metrics().query(MetricsFilter().with_namespace('kinds'))

    def only(kind, name):
      one, = [m for m in got[kind] if m.key.metric.name == name]
      return one.attempted, one.committed

    self.assertEqual((8, 8), only('counters', 'counter'))
    for d in only('distributions', 'distribution'):
      self.assertEqual((8, 4, 1, 3), (d.sum, d.count, d.min, d.max))
    for g in only('gauges', 'gauge'):
      self.assertEqual(7, g.value)
    for s in only('string_sets', 'strings'):
      self.assertEqual({'n1', 'n2', 'n3'}, s)
    for t in only('bounded_tries', 'paths'):
      self.assertEqual({('a', 'b1', False), ('a', 'b2', False), ('a', 'b3', False)}, set(t.flattened()))

  def test_trigger_of_ones_own(self):
    """As docs/triggers.md shows it."""
    ten_minutes = 600
    stream = (
        TestStream().advance_watermark_to(0)
        .add_elements([window.TimestampedValue(('k', v), 1) for v in (60, 50)])
        .add_elements([window.TimestampedValue(('k', 30), 2), window.TimestampedValue(('l', 1), 2)])
        .advance_processing_time(ten_minutes + 1)
        .add_elements([window.TimestampedValue(('k', 5), 3)])
        .advance_watermark_to(10)
        .add_elements([window.TimestampedValue(('k', 7), 11)])
        .advance_watermark_to_infinity())
    with self.pipeline() as p:
      res = (
          p | stream.with_output_types(typing.Tuple[str, int]) | beam.WindowInto(window.FixedWindows(10))
          | beam.ParDo(documented('triggers.md').WhenSumReaches(100, ten_minutes)))
      assert_that(res, equal_to([
          ('k', 'enough', [50, 60]),
          ('k', 'waited', [30]),
          ('l', 'waited', [1]),
          ('k', 'end of window', [5]),
          ('k', 'end of window', [7]),
      ]))

  def test_drained_job_is_whole(self):
    """Somebody drains each job that has a transform DrainMe."""
    p = self.pipeline()
    _ = (
        p | beam.Impulse() | 'DrainMe' >> beam.ParDo(Forever())
        | beam.ParDo(Loop())
        | beam.WindowInto(window.FixedWindows(3600)) | beam.GroupByKey() | beam.Map(keep))
    run = p.run()
    with self.assertRaisesRegex(RuntimeError, 'in state DRAINED'):  # all but DONE is an error for this client
      run.wait_until_finish()
    counters = run.metrics().query(MetricsFilter().with_namespace('model'))['counters']
    got = {c.key.metric.name: c.result for c in counters}
    self.assertGreater(got['read'], 3)
    self.assertEqual(got['read'], got['kept'])
    self.assertEqual(3, got['fired'])
    self.assertGreater(got['looped'], 3)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  suite_lines.main(ARGS, ModelTest)
  sys.stdout.flush()
