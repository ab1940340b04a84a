// Pipelines with the TypeScript SDK's own Kafka wrappers. BEAM_SERVICE_OVERRIDES
// names the expansion service, as the SDK has it.
//
// replay JOB SERVERS TOPIC            prints each key and value
// metadata JOB SERVERS TOPIC          prints each record with what Kafka knows of it
// write JOB SERVERS TOPIC COUNT       writes keys k0, k1, ... and values v0, v1, ...
"use strict";

const beam = require("apache-beam");
const { readFromKafka, readFromKafkaWithMetadata, writeToKafka } = require("apache-beam/io/kafka");
const { PortableRunner } = require("apache-beam/runners/portable_runner/runner");
const coders = require("apache-beam/coders/standard_coders");
const { JobState_Enum } = require("apache-beam/proto/beam_job_api");
const internal = require("apache-beam/transforms/internal");

// The worker is this process: what functions leave here is found here.
globalThis.lines = [];

const ways = {
  replay: (servers, topic) => async (root) => {
    const pairs = await root.applyAsync(
      readFromKafka({ "bootstrap.servers": servers, "trestle.stop": "now" }, [topic], { timestampPolicy: "CreateTime" }));
    pairs.map(beam.withName("lines", (kv) => {
      globalThis.lines.push(Buffer.from(kv.key).toString() + " " + Buffer.from(kv.value).toString());
    }));
  },
  metadata: (servers, topic) => async (root) => {
    const rows = await root.applyAsync(
      readFromKafkaWithMetadata({ "bootstrap.servers": servers, "trestle.stop": "now" }, [topic], { timestampPolicy: "CreateTime" }));
    rows.map(beam.withName("lines", (r) => {
      globalThis.lines.push([r.partition, r.offset, r.timestamp, Buffer.from(r.key).toString(), Buffer.from(r.value).toString()].join(" "));
    }));
  },
  write: (servers, topic, count) => async (root) => {
    const numbers = [...Array(Number(count)).keys()];
    await root
      .apply(beam.create(numbers))
      .map(beam.withName("pairs", (i) => ({ key: Buffer.from("k" + i), value: Buffer.from("v" + i) })))
      .apply(internal.withCoderInternal(new coders.KVCoder(new coders.BytesCoder(), new coders.BytesCoder())))
      .applyAsync(writeToKafka({ "bootstrap.servers": servers }, topic));
  },
};

async function main() {
  const [way, job, ...rest] = process.argv.slice(2);
  const runner = new PortableRunner({ jobEndpoint: job, environmentType: "LOOPBACK" });
  const result = await runner.runAsync(ways[way](...rest));
  const end = await result.waitUntilFinish();
  for (const line of globalThis.lines) {
    console.log("line " + line);
  }
  process.exit(end === JobState_Enum.DONE ? 0 : 1);
}

main().catch((e) => {
  console.error(e);
  process.exit(1);
});
