"""Pipelines of the behaviour tests: NAME DIR FILE writes the pipeline's proto
to FILE. Its functions run in workers and speak with the test by files in DIR.
"""

import glob
import os
import signal
import sys
import time

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import environments
from apache_beam.transforms import trigger
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec


SEEN = Metrics.counter('itests', 'numbers')


def first(path):
  """Makes a file, and is true for whoever made it."""
  try:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return True
  except FileExistsError:
    return False


def await_files(pattern, number, limit):
  began = time.monotonic()
  while len(glob.glob(pattern)) < number:
    if time.monotonic() - began > limit:
      raise RuntimeError(f'fewer than {number} files {pattern}')
    time.sleep(0.01)


class Crash(beam.DoFn):
  """Kills its process at an element, the first time."""
  def __init__(self, dir, at):
    self.dir, self.at = dir, at

  def process(self, x):
    SEEN.inc()
    if x == self.at and first(f'{self.dir}/crashed'):
      os.kill(os.getpid(), signal.SIGKILL)
    yield x


class Hoard(beam.DoFn):
  """Takes more and more memory at an element, the first time."""
  def __init__(self, dir, at):
    self.dir, self.at = dir, at

  def process(self, x):
    if x == self.at and first(f'{self.dir}/hoarded'):
      hoard = []
      for i in range(150):
        hoard.append(b'%d' % (i % 10) * (10 << 20))
        time.sleep(0.1)
      raise RuntimeError('nobody minds how much memory is taken')
    yield x


class Fail(beam.DoFn):
  """Raises at an element, each time leaving a file."""
  def __init__(self, dir, at):
    self.dir, self.at = dir, at

  def process(self, x):
    if x == self.at:
      first(f'{self.dir}/try-{time.monotonic_ns()}')
      raise ValueError(f'the number {x} is one too many')
    yield x


class Meet(beam.DoFn):
  """Waits until two processes are here."""
  def __init__(self, dir):
    self.dir = dir

  def process(self, x):
    first(f'{self.dir}/here-{os.getpid()}')
    await_files(f'{self.dir}/here-*', 2, 20)
    yield x


class Wait(beam.DoFn):
  """Waits at an element until a file is there."""
  def __init__(self, dir, at):
    self.dir, self.at = dir, at

  def process(self, x):
    if x == self.at:
      first(f'{self.dir}/reached')
      await_files(f'{self.dir}/go', 1, 60)
    yield x


class See(beam.DoFn):
  """Tells that it has seen an element, and of each its number and size."""
  def __init__(self, dir):
    self.dir = dir

  def process(self, x):
    first(f'{self.dir}/seen')
    yield b'%s of %d bytes' % (x[:x.index(b':')], len(x))


class Tally(beam.DoFn):
  """Gives each key, what its numbers are and their sum, once it has seen all of
  them. At some numbers it raises or kills its process, the first time, when it
  has written its state.
  """
  NUMBER = ReadModifyWriteStateSpec('number', VarIntCoder())
  SUM = ReadModifyWriteStateSpec('sum', VarIntCoder())
  ALL = BagStateSpec('all', VarIntCoder())

  def __init__(self, dir, each, raises, dies):
    self.dir, self.each, self.raises, self.dies = dir, each, raises, dies

  def process(
      self,
      kv,
      number=beam.DoFn.StateParam(NUMBER),
      sum=beam.DoFn.StateParam(SUM),
      all=beam.DoFn.StateParam(ALL)):
    key, x = kv
    n, s = (number.read() or 0) + 1, (sum.read() or 0) + x
    number.write(n)
    sum.write(s)
    all.add(x)
    if x in self.raises and first(f'{self.dir}/raised-{x}'):
      raise ValueError(f'{x} is not liked at first')
    if x in self.dies and first(f'{self.dir}/died-{x}'):
      os.kill(os.getpid(), signal.SIGKILL)
    if n == self.each:
      yield f'{key} {s} {sorted(all.read())}'


def write(lines, path):
  temp = f'{path}.{os.getpid()}'
  with open(temp, 'w') as f:
    f.write('\n'.join(sorted(lines)))
  os.rename(temp, path)


def gather(col, path):
  """Writes a collection of str, sorted, to a file that appears at once."""
  return (
      col
      | 'Key' >> beam.Map(lambda x: (0, x))
      | 'All' >> beam.GroupByKey()
      | 'Write' >> beam.Map(lambda kv, path: write(kv[1], path), path))


def numbers(p, n):
  return (
      p | beam.Impulse()
      | 'Numbers' >> beam.FlatMap(lambda _, n: range(n), n).with_output_types(int)
      | beam.Reshuffle())


def crash(p, dir):
  gather(numbers(p, 100) | beam.ParDo(Crash(dir, 70)) | beam.Map(str), dir + '/out')


def hoard(p, dir):
  gather(numbers(p, 100) | beam.ParDo(Hoard(dir, 70)) | beam.Map(str), dir + '/out')


def fail(p, dir):
  gather(numbers(p, 10) | 'Strict' >> beam.ParDo(Fail(dir, 3)) | beam.Map(str), dir + '/out')


def meet(p, dir):
  gather(numbers(p, 200) | beam.ParDo(Meet(dir)) | beam.Map(str), dir + '/out')


def wait(p, dir):
  gather(numbers(p, 100) | beam.ParDo(Wait(dir, 50)) | beam.Map(str), dir + '/out')


def tally(p, dir):
  """Bundles of the keys 0 to 9 come again and again."""
  keyed = numbers(p, 2000) | 'Digit' >> beam.Map(lambda x: (x % 10, x)).with_output_types(tuple[int, int])
  gather(keyed | beam.ParDo(Tally(dir, 200, range(100, 2000, 301), [777, 1333])), dir + '/out')


def grow(p, dir):
  """Words beside a side input of which more comes as time goes by."""
  p.options.view_as(StandardOptions).streaming = True
  stream = TestStream()
  for word in ['side', 'main 1', 'main 2', 'side', 'main 3']:
    stream.add_elements([word])
  words = p | stream.advance_watermark_to_infinity()
  side = (
      words
      | 'Side' >> beam.Filter(lambda x: x == 'side')
      | beam.WindowInto(
          beam.window.GlobalWindows(),
          trigger=trigger.Repeatedly(trigger.AfterCount(1)),
          accumulation_mode=trigger.AccumulationMode.DISCARDING))
  main = words | 'Main' >> beam.Filter(lambda x: x != 'side')
  both = main | beam.Map(lambda x, side: ' '.join([x, *side]), beam.pvalue.AsIter(side))
  gather(both | 'Once' >> beam.WindowInto(beam.window.FixedWindows(3600)), dir + '/out')


def luggage(p, dir):
  """A pipeline that is large because of what a function carries."""
  heavy = os.urandom(5 << 20)  # what is pickled is compressed
  gather(p | beam.Impulse() | beam.Map(lambda _: str(len(heavy))), dir + '/out')


def see(p, dir):
  """The second half of a pipeline whose first half is in another language."""
  seen = p | beam.Impulse() | 'See' >> beam.ParDo(See(dir)).with_output_types(bytes)
  gather(seen | beam.Map(lambda x: x.decode()), dir + '/out')


def main(name, dir, file):
  build = {'crash': crash, 'fail': fail, 'grow': grow, 'hoard': hoard, 'luggage': luggage, 'meet': meet, 'see': see, 'tally': tally, 'wait': wait}[name]
  p = beam.Pipeline(options=PipelineOptions([]))
  build(p, dir)
  proto = p.to_runner_api(default_environment=environments.ProcessEnvironment('replaced'))
  assert isinstance(proto, beam_runner_api_pb2.Pipeline)
  with open(file, 'wb') as f:
    f.write(proto.SerializeToString(deterministic=True))


if __name__ == '__main__':
  main(*sys.argv[1:])
