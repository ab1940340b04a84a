"""Boots a Python SDK worker as the command of a PROCESS environment.

A runner gives the worker's id and the address of its provision service; what
the worker has to know besides is asked there.
"""

import argparse
import os
import sys


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--id', required=True)
  parser.add_argument('--provision_endpoint', required=True)
  args, _ = parser.parse_known_args()
  worker_id = args.id.strip("'")  # Prism puts quotes around it

  # Imported late, so that wrong arguments are told at once.
  import grpc
  from google.protobuf import json_format
  from google.protobuf import text_format
  from apache_beam.portability.api import beam_provision_api_pb2
  from apache_beam.portability.api import beam_provision_api_pb2_grpc
  from apache_beam.runners.worker import sdk_worker_main

  with grpc.insecure_channel(args.provision_endpoint) as channel:
    stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
    info = stub.GetProvisionInfo(
        beam_provision_api_pb2.GetProvisionInfoRequest(),
        metadata=[('worker_id', worker_id)],
        timeout=60).info

  os.environ.update(
      WORKER_ID=worker_id,
      PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
      LOGGING_API_SERVICE_DESCRIPTOR=text_format.MessageToString(
          info.logging_endpoint),
      CONTROL_API_SERVICE_DESCRIPTOR=text_format.MessageToString(
          info.control_endpoint),
      RUNNER_CAPABILITIES=' '.join(info.runner_capabilities))
  if info.status_endpoint.url:
    os.environ['STATUS_API_SERVICE_DESCRIPTOR'] = text_format.MessageToString(
        info.status_endpoint)
  sdk_worker_main.main(sys.argv)


if __name__ == '__main__':
  main()
