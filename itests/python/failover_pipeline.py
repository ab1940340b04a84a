"""The pipeline of itests/jobs in Python: DIR ELEMENTS PAUSE_MICROS FILE writes
its proto to FILE. Result and journal are written as the Go pipeline does, so
that the same judge reads them.
"""

import os
import random
import secrets
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import environments

FIRST_KEYS, SECOND_KEYS = 40, 24

_journals = {}


def note(dir, step, id):
  """Writes one line of the journal. It is with the system on return."""
  fd = _journals.get(dir)
  if fd is None:
    os.makedirs(f'{dir}/journal', 0o700, exist_ok=True)
    host = os.environ.get('FLEET_HOST', 'here')
    name = f'{dir}/journal/{host}.{os.getpid()}.{secrets.token_hex(8)}'
    fd = os.open(name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    _journals[dir] = fd
  os.write(fd, b'%s %d %d\n' % (step.encode(), id, time.time_ns() // 1000))


def appear(path, lines):
  """Writes a file that is there whole or not at all."""
  os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
  temp = f'{path}.{secrets.token_hex(8)}'
  with open(temp, 'w') as f:
    f.write('\n'.join(lines))
  os.rename(temp, path)


class Step(beam.DoFn):
  def __init__(self, dir, pause):
    self.dir, self.pause = dir, pause

  def step(self, name, id):
    note(self.dir, name, id)
    time.sleep(self.pause)


class Source(Step):
  def process(self, id):
    self.step('source', id)
    yield id


class Salt(Step):
  def process(self, _):
    note(self.dir, 'salt', 0)
    yield secrets.token_hex(4)


class Draw(Step):
  """Gives each element a key by chance."""
  def process(self, id):
    self.step('draw', id)
    key = random.randrange(FIRST_KEYS)
    yield key, (id, key)


class First(Step):
  """Sends each element on by its number, with its group and what the side
  input said."""
  def process(self, kv, salts):
    salt, group = '+'.join(salts), secrets.token_hex(4)
    for id, drawn in kv[1]:
      self.step('first', id)
      yield id % SECOND_KEYS, f'{id} {drawn} {group} {salt} {kv[0]} '


class Second(Step):
  """Writes one part of the result and tells its name."""
  def process(self, kv):
    lines = []
    for line in kv[1]:
      self.step('second', int(line.split(' ')[0]))
      lines.append(f'{kv[0]} {line}')
    name = f'parts/{secrets.token_hex(16)}'
    appear(f'{self.dir}/{name}', sorted(lines))
    yield 0, name


class Publish(Step):
  """Says which parts are the result."""
  def process(self, kv):
    note(self.dir, 'publish', 0)
    appear(f'{self.dir}/manifest', list(kv[1]))


def build(p, dir, elements, pause):
  salt = (
      p | 'Once' >> beam.Impulse()
      | 'Alone' >> beam.Reshuffle()
      | 'Salt' >> beam.ParDo(Salt(dir, pause)))
  (  # pylint: disable=expression-not-assigned
      p | 'Numbers' >> beam.Create(range(elements))
      | 'Source' >> beam.ParDo(Source(dir, pause)).with_output_types(int)
      | beam.Reshuffle()
      | 'Draw' >> beam.ParDo(Draw(dir, pause))
      | 'ByDrawn' >> beam.GroupByKey()
      | 'First' >> beam.ParDo(First(dir, pause), beam.pvalue.AsIter(salt))
      | 'ByNumber' >> beam.GroupByKey()
      | 'Second' >> beam.ParDo(Second(dir, pause))
      | 'Together' >> beam.GroupByKey()
      | 'Publish' >> beam.ParDo(Publish(dir, pause)))


def main(dir, elements, pause, file):
  p = beam.Pipeline(options=PipelineOptions([]))
  build(p, dir, int(elements), int(pause) / 1e6)
  proto = p.to_runner_api(default_environment=environments.ProcessEnvironment('replaced'))
  with open(file, 'wb') as f:
    f.write(proto.SerializeToString(deterministic=True))


if __name__ == '__main__':
  main(*sys.argv[1:])
