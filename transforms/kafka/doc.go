// Package kafka reads Kafka's topics, a piece of their history as bounded input
// (Replay) or without an end (Live), and writes to Kafka.
//
// A replay is resolved once: Resolve turns what the user said (topics, times,
// offsets, "until now") into Bounds, exact offset ranges of partitions, small
// enough to be a record in a log. Trestle's leader does that when it has
// accepted a job (see Bind); elsewhere it is done in a step of the pipeline. Whatever reads by the same Bounds reads the
// same records with the same event times, today or in a year, as long as Kafka
// keeps them; when it doesn't, reading fails and says so.
//
// With read_committed, which is the default here, records of aborted
// transactions never appear. Control records never do. A range ends when the
// fetch position has reached its end: offsets at the end that show no record
// (markers, compacted keys, aborted records) are passed, not waited for.
//
// A live reading is the same reader, a slice of a partition at a time. What is
// left of the partition is given out again later: a restriction without an end,
// which nobody shares. Its watermark follows the records' times and, where a
// partition has nothing new, the clock (Policy).
//
// The client is kafka-go's Transport: connections, TLS, SASL, and which broker
// leads which partition. Fetching and the reading of record batches is ours (see
// fetchCall): kafka-go's own types don't tell the last offset of a batch, without
// which nobody can pass a gap at the batch's end.
//
// The DoFns are ordinary Beam Go ones and run in any Go worker; `trestle
// harness` is the one that Trestle brings along for pipelines of other SDKs.
package kafka
