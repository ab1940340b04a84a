"""A pipeline that counts a topic's keys by windows of 10 s, without an end.

live.py JOB SERVERS TOPIC TO GROUP NAME
"""
import sys

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions


def line(e, window=beam.DoFn.WindowParam):
  key, n = e
  return key, b'%d %s %d' % (window.start.micros // 1000, key, n)


def main(job, servers, topic, to, group, name):
  config = {'bootstrap.servers': servers, 'group.id': group,
            'auto.offset.reset': 'earliest', 'trestle.idle.after.ms': 'never'}
  options = PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=' + job, '--job_name=' + name,
      '--environment_type=LOOPBACK'])
  with beam.Pipeline(options=options) as p:
    _ = (
        p
        | ReadFromKafka(
            config, [topic], timestamp_policy='CreateTime',
            commit_offset_in_finalize=True, expansion_service=job)
        | beam.Map(lambda e: (e[0], 1)).with_output_types(tuple[bytes, int])
        | beam.WindowInto(beam.window.FixedWindows(10))
        | beam.CombinePerKey(sum)
        | beam.Map(line).with_output_types(tuple[bytes, bytes])
        | WriteToKafka(
            {'bootstrap.servers': servers}, to, expansion_service=job))


if __name__ == '__main__':
  main(*sys.argv[1:])
