"""A client with a streaming pipeline that has nothing to do for ten minutes: its
arguments are the options of the pipeline, and its workers live in its process.
"""

import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse


def main():
  with beam.Pipeline(options=PipelineOptions(sys.argv[1:])) as p:
    _ = (
        p
        | PeriodicImpulse(fire_interval=600)
        | beam.Map(lambda x: (1, x))
        | beam.WindowInto(beam.window.FixedWindows(60))
        | beam.GroupByKey())


if __name__ == '__main__':
  main()
