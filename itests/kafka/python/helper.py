"""A pipeline with the helper for replays: JOB SERVERS TOPIC START STOP OUT.

START and STOP are Python, such as None, 'now', 5000, {0: 3}.
"""
import datetime
import os
import sys

import apache_beam as beam

from pipelines import metadata, options

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', '..', 'sdks', 'python'))
from trestle_kafka import replay


def main(job, servers, topic, start, stop, out):
  names = {'datetime': datetime}
  with beam.Pipeline(options=options(job)) as p:
    _ = (
        p
        | replay(
            servers, topic, start=eval(start, names), stop=eval(stop, names),
            expansion_service=job, with_metadata=True)
        | beam.Map(metadata)
        | beam.io.WriteToText(out))


if __name__ == '__main__':
  main(*sys.argv[1:])
