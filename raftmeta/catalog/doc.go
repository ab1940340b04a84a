// Package catalog is what is known of all jobs: the decisions that were made
// about them, and what these add up to.
//
// A decision is a Record. State is the fold of all records so far: Apply adds
// one. Equal records in equal order give equal states on every machine and in
// every later version, so that a new leader, a follower and the web page tell
// one story; Hash compares them. A record that doesn't fit the state (an
// attempt that was given up, a job that has ended) changes nothing and says
// why: such records are written by leaders that have been replaced, and are
// harmless.
//
// Records grow with tasks, never with elements; each is bounded, and what many
// tasks wrote is kept as small sketches, so that ten thousand tasks reading
// from ten thousand stay linear. What follows from a record alone has none of
// its own: a job ends with its last TaskFinished.
//
// Nothing here waits, reads a clock or touches a file. What should be decided
// is package schedule's business; keeping records safe is package raftmeta's.
package catalog
