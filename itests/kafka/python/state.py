"""A pipeline that counts the records of each of a topic's keys in a value state,
and writes a line when it has seen them all; without an end, or replayed.

state.py JOB SERVERS TOPIC TO EACH live|replay NAME
"""
import sys

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec


class Count(beam.DoFn):
  SEEN = ReadModifyWriteStateSpec('seen', VarIntCoder())

  def __init__(self, each):
    self.each = each

  def process(self, record, seen=beam.DoFn.StateParam(SEEN)):
    n = (seen.read() or 0) + 1
    seen.write(n)
    if n == self.each:
      yield record[0], b'%s %d' % (record[0], n)


def main(job, servers, topic, to, each, how, name):
  config = {'bootstrap.servers': servers, 'auto.offset.reset': 'earliest'}
  config.update({'live': {'trestle.idle.after.ms': 'never'}, 'replay': {'trestle.stop': 'now'}}[how])
  options = PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=' + job, '--job_name=' + name,
      '--experiments=disable_logging_submission_environment', '--environment_type=LOOPBACK'])
  with beam.Pipeline(options=options) as p:
    _ = (
        p
        | ReadFromKafka(config, [topic], expansion_service=job)
        | beam.ParDo(Count(int(each))).with_output_types(tuple[bytes, bytes])
        | WriteToKafka({'bootstrap.servers': servers}, to, expansion_service=job))


if __name__ == '__main__':
  main(*sys.argv[1:])
