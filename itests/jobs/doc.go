// Package jobs holds the pipeline that failover is judged by, and its judges.
//
// The pipeline has five regions, and a side input:
//
//	source ─ draw ─GroupByKey─ first ─GroupByKey─ second ─GroupByKey─ publish
//	salt ───────────────────────┘
//
// Each element has a number that nobody else has. Draw gives it a key by chance,
// and what is chance is written into it: so is what the side input said, and
// which group it was in. If one part of a collection were made again with other
// keys, and readers of the old part stayed, then numbers would be lost or
// doubled, or groups and salts of two generations stand side by side. Check
// sees all of that in the result.
//
// The result is written as files are by careful sinks: each task writes parts of
// names never used before, and the one last task names the parts that count in
// a manifest that appears at once. All is in a directory outside of the runner.
//
// Apart from the result there is a journal: each process writes a line for each
// element that a step begins with, the moment it does. So what ran, where, when
// and how often, is known without asking the runner. See Journal.
//
// A worker, and a client that waits as any Go client does, is in ./worker.
package jobs
