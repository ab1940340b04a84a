"""Counts the records of each key in a value state, as a batch or, with
--unbounded, as a stream, and fails unless each key has them all.

Keys come in a random order, so that in a stream a bundle has few records of
each; a batch has a key's records together.
"""

import argparse
import logging
import sys

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.metrics import Metrics
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec


class Pieces(RestrictionProvider):
  def __init__(self, records):
    self.records = records

  def initial_restriction(self, element):
    return OffsetRange(0, self.records)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()

  def split(self, element, restriction):
    yield from restriction.split(restriction.size() // 4)


def records_of(total, keys, unbounded):
  """Makes a source. Record i has a key that depends on i alone and looks like
  chance: the multiplier is a large prime, so each key comes as often as others.
  """
  def process(self, _, tracker=beam.DoFn.RestrictionParam(Pieces(total))):
    i = tracker.current_restriction().start
    while tracker.try_claim(i):
      yield (i * 2654435761 % total % keys, i)
      i += 1

  if unbounded:
    process = beam.DoFn.unbounded_per_element()(process)
  return type('Records', (beam.DoFn, ), {'process': process})()


class Count(beam.DoFn):
  SEEN = ReadModifyWriteStateSpec('seen', VarIntCoder())

  def __init__(self, each):
    self.each = each
    self.done = Metrics.counter('keys', 'done')

  def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
    n = (seen.read() or 0) + 1
    seen.write(n)
    if n == self.each:
      self.done.inc()


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--records', type=int, required=True)
  parser.add_argument('--keys', type=int, required=True)
  parser.add_argument('--unbounded', action='store_true')
  args, rest = parser.parse_known_args()
  if args.records % args.keys:
    sys.exit('--keys must divide --records')
  if args.unbounded:
    rest.append('--streaming')
  p = beam.Pipeline(options=PipelineOptions(rest))
  _ = (
      p
      | beam.Impulse()
      | beam.ParDo(records_of(args.records, args.keys, args.unbounded)).
      with_output_types(tuple[int, int])
      | beam.ParDo(Count(args.records // args.keys)))
  result = p.run()
  result.wait_until_finish()
  found = result.metrics().query(MetricsFilter().with_name('done'))['counters']
  done = sum(c.result for c in found)
  if done != args.keys:
    sys.exit(f'{done} keys have all their records, want {args.keys}')


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  main()
