"""Kafka topics as bounded input of Beam pipelines in Python, on Trestle.

One file without more than Beam itself: import it from here or copy it.

  from trestle_kafka import replay

  with beam.Pipeline(options=...) as p:
    p | replay('HOST:9092', 'clicks', start='2026-01-01T00:00:00Z')

It is Beam's own ReadFromKafka with what bounds it said in the consumer config,
so all that ReadFromKafka takes can be given, too. docs/kafka.md says what each
of them means.
"""
import datetime

from apache_beam.io.kafka import ReadFromKafka

__all__ = ['replay']


def replay(
    servers,
    topics,
    start=None,
    stop='now',
    expansion_service='127.0.0.1:8099',
    timestamp_policy=ReadFromKafka.create_time_policy,
    consumer_config=None,
    **more):
  """Reads what topics hold from one place to another, each time the same.

  Args:
    servers: 'HOST:PORT,...' of the brokers.
    topics: the name of a topic, or a list of them.
    start: where to begin: None is the first record that is still there. A time
      (a datetime with a time zone, milliseconds since 1970, or a text like
      '2026-01-31T12:00:00Z') is the first record of that time or later. A dict
      has offsets by partition ({0: 100}) or by topic and partition
      ({('clicks', 0): 100}).
    stop: where to end, in the same way; 'now' is what is there when the job
      starts. The record at that place isn't read.
    expansion_service: Trestle's job endpoint.
    timestamp_policy: what the records' event time is. The default is CreateTime,
      the time that the producer gave them: under ReadFromKafka's own default all
      records get the one time at which the bounds were settled.
    consumer_config: more of Kafka's consumer config, such as security.
    more: what else ReadFromKafka takes, such as with_metadata=True.

  Returns:
    A PTransform. Its output are pairs of keys and values, or rows.
  """
  config = {'bootstrap.servers': servers, **(consumer_config or {})}
  if start is not None:
    config.update(_bound('start', start))
  if stop == 'now':
    config['trestle.stop'] = 'now'
  else:
    config.update(_bound('stop', stop))
  return ReadFromKafka(
      config, [topics] if isinstance(topics, str) else list(topics),
      timestamp_policy=timestamp_policy, expansion_service=expansion_service,
      **more)


def _bound(name, at):
  if isinstance(at, dict):
    if not at:
      raise ValueError('%s has no partition' % name)
    places = []
    for partition, offset in at.items():
      if isinstance(partition, tuple):
        partition = '%s:%d' % partition
      places.append('%s:%d' % (partition, offset))
    return {'trestle.%s.offsets' % name: ','.join(places)}
  if isinstance(at, datetime.datetime):
    if at.tzinfo is None:
      raise ValueError('%s=%s has no time zone' % (name, at))
    at = round(at.timestamp() * 1000)
  if isinstance(at, bool) or not isinstance(at, (int, str)):
    raise TypeError(
        '%s=%r: want a datetime, milliseconds since 1970, a text like '
        '2026-01-31T12:00:00Z, or a dict of offsets' % (name, at))
  return {'trestle.%s.time' % name: str(at)}
