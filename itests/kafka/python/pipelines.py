"""Pipelines with the stock Kafka wrappers; only the expansion service is named.

replay JOB SERVERS TOPIC OUT plain|metadata|long  writes each element and its time as a line
rows   JOB SERVERS TOPIC OUT RAW|STRING           as Beam YAML and Managed read, by schema transform
write  JOB SERVERS TOPIC COUNT                    writes keys k0, k1, ... and values v0, v1, ...
"""
import base64
import sys

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.transforms.external import SchemaAwareExternalTransform
from apache_beam.options.pipeline_options import PipelineOptions


def word(b):
  if b is None:
    return '-'
  return base64.b64encode(b).decode() if b else '~'


def plain(e, time=beam.DoFn.TimestampParam):
  return '%d %s %s' % (time.micros // 1000, word(e[0]), word(e[1]))


def metadata(r, time=beam.DoFn.TimestampParam):
  assert time.micros == r.timestamp * 1000, (time, r)
  head = '%d %d %d %s %s' % (
      r.partition, r.offset, r.timestamp, word(r.key), word(r.value))
  return ' '.join([head] + ['%s=%s' % (h.key, word(h.value)) for h in r.headers])


def number(e):
  return '%s %s' % e


def options(job):
  return PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=' + job,
      '--environment_type=LOOPBACK'])


def replay(job, servers, topic, out, kind):
  more = {}
  if kind == 'long':
    java = 'org.apache.kafka.common.serialization.'
    more = dict(key_deserializer=java + 'StringDeserializer',
                value_deserializer=java + 'LongDeserializer')
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | ReadFromKafka(
            {'bootstrap.servers': servers, 'trestle.stop': 'now'}, [topic],
            timestamp_policy=ReadFromKafka.create_time_policy,
            with_metadata=kind == 'metadata', expansion_service=job, **more)
        | beam.Map({'plain': plain, 'metadata': metadata, 'long': number}[kind])
        | beam.io.WriteToText(out))


def rows(job, servers, topic, out, fmt):
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | SchemaAwareExternalTransform(
            identifier='beam:schematransform:org.apache.beam:kafka_read:v1',
            expansion_service=job, rearrange_based_on_discovery=True,
            bootstrap_servers=servers, topic=topic, format=fmt,
            consumer_config_updates={'trestle.stop': 'now'})
        | beam.Map(lambda row: repr(row.payload))
        | beam.io.WriteToText(out))


def write(job, servers, topic, count):
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.Create(range(int(count)))
        | beam.Map(lambda i: (b'k%d' % i, b'v%d' % i)).with_output_types(
            tuple[bytes, bytes])
        | WriteToKafka(
            {'bootstrap.servers': servers, 'compression.type': 'zstd'}, topic,
            expansion_service=job))


if __name__ == '__main__':
  {'replay': replay, 'rows': rows, 'write': write}[sys.argv[1]](*sys.argv[2:])
