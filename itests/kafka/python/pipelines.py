"""Pipelines with the stock Kafka wrappers; only the expansion service is named.

replay JOB SERVERS TOPIC OUT plain|metadata|long  writes each element and its time as a line
rows   JOB SERVERS TOPIC OUT RAW|STRING           as Beam YAML and Managed read, by schema transform
write  JOB SERVERS TOPIC COUNT                    writes keys k0, k1, ... and values v0, v1, ...
nulls  JOB SERVERS TOPIC                          writes pairs with None in them
headers JOB SERVERS TOPIC                         writes rows with headers
format JOB SERVERS TOPIC RAW|STRING|JSON          writes rows by schema transform
json   JOB SERVERS TOPIC OUT SCHEMA               reads rows of a JSON Schema
managed JOB SERVERS TOPIC OUT                     writes and reads by Managed

EXPANSION_SERVICE in the environment names one that is not at JOB.
"""
import base64
import os
import sys
import typing

import apache_beam as beam
import apache_beam.transforms.managed
import numpy as np
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


def expansion(job):
  """The job endpoint is an expansion service, if no other is named."""
  return os.environ.get('EXPANSION_SERVICE', job)


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
            with_metadata=kind == 'metadata', expansion_service=expansion(job), **more)
        | beam.Map({'plain': plain, 'metadata': metadata, 'long': number}[kind])
        | beam.io.WriteToText(out))


def rows(job, servers, topic, out, fmt):
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | SchemaAwareExternalTransform(
            identifier='beam:schematransform:org.apache.beam:kafka_read:v1',
            expansion_service=expansion(job), rearrange_based_on_discovery=True,
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
            expansion_service=expansion(job)))


def nulls(job, servers, topic):
  pair = tuple[typing.Optional[bytes], typing.Optional[bytes]]
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.Create([(b'k', b'v'), (b'k', None), (None, b'v'), (None, None),
                       (b'', b'')])
        | beam.WindowInto(beam.window.FixedWindows(60))
        | beam.Map(lambda e: e).with_output_types(pair)
        | WriteToKafka(
            {'bootstrap.servers': servers}, topic, expansion_service=expansion(job)))


Header = typing.NamedTuple('Header', [('key', str), ('value', bytes)])
Headed = typing.NamedTuple(
    'Headed', [('key', bytes), ('value', typing.Optional[bytes]),
               ('headers', list[Header]), ('partition', typing.Optional[int]),
               ('timestamp', typing.Optional[np.int64])])
beam.coders.registry.register_coder(Header, beam.coders.RowCoder)
beam.coders.registry.register_coder(Headed, beam.coders.RowCoder)


def headers(job, servers, topic):
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.Create([0])
        | beam.FlatMap(lambda _: [
            Headed(b'a', b'1', [Header('h', b'x'), Header('h', b'y')], 1, 5000),
            Headed(b'b', None, [], 0, None)]).with_output_types(Headed)
        | WriteToKafka(
            {'bootstrap.servers': servers}, topic, with_headers=True,
            expansion_service=expansion(job)))


def formatted(job, servers, topic, fmt):
  made = {
      'RAW': lambda i: beam.Row(payload=b'raw%d' % i),
      'STRING': lambda i: beam.Row(text='text %d' % i),
      'JSON': lambda i: beam.Row(
          word='w"%d' % i, n=i, x=i / 2, yes=i % 2 == 0, list=[i, i + 1],
          inner=beam.Row(b=b'x')),
  }[fmt]
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.Create(range(3))
        | beam.Map(made)
        | SchemaAwareExternalTransform(
            identifier='beam:schematransform:org.apache.beam:kafka_write:v1',
            expansion_service=expansion(job), rearrange_based_on_discovery=True,
            bootstrap_servers=servers, topic=topic, format=fmt,
            producer_config_updates={'compression.type': 'gzip'}))


def json_rows(job, servers, topic, out, schema):
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | SchemaAwareExternalTransform(
            identifier='beam:schematransform:org.apache.beam:kafka_read:v1',
            expansion_service=expansion(job), rearrange_based_on_discovery=True,
            bootstrap_servers=servers, topic=topic, format='JSON',
            schema=schema, consumer_config_updates={'trestle.stop': 'now'})
        | beam.Map(lambda row: '%s %s %s %s' % (
            row.word, row.n, row.inner and row.inner.x, row.list))
        | beam.io.WriteToText(out))


def managed(job, servers, topic, out):
  config = {'bootstrap_servers': servers, 'topic': topic, 'format': 'RAW'}
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.Create(range(5))
        | beam.Map(lambda i: beam.Row(payload=b'm%d' % i))
        | beam.managed.Write(
            beam.managed.KAFKA, config=config, expansion_service=expansion(job)))
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | beam.managed.Read(
            beam.managed.KAFKA,
            config={**config, 'consumer_config_updates': {'trestle.stop': 'now'}},
            expansion_service=expansion(job))
        | beam.Map(lambda row: row.payload.decode())
        | beam.io.WriteToText(out))


if __name__ == '__main__':
  {'replay': replay, 'rows': rows, 'write': write, 'nulls': nulls,
   'headers': headers, 'format': formatted, 'json': json_rows,
   'managed': managed}[sys.argv[1]](*sys.argv[2:])
