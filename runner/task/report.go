package task

import "trestle/runner/jobgraph"

// A Report is what a TaskManager tells the JobManager. Exactly one field is
// set. Reports of one task come in order: Started, any number of Progress,
// then one of Finished and Failed, after which the attempt is over.
type Report struct {
	Started  *ID
	Progress *Progress
	Finished *Finished
	Failed   *Failed
	// Draining says that the TaskManager wants no new tasks, from now until it
	// leaves. What runs goes on. It is of no task.
	Draining bool
}

// An Inventory is what a TaskManager has at hand when it joins: what outlived
// a JobManager, or came back from its own disk.
type Inventory struct {
	// Running are the attempts that run and will be reported on.
	Running []RunningTask
	// Held are the partitions that it can serve.
	Held []HeldPartitions
	// Queues are the restriction queues that it keeps.
	Queues []HeldQueue
}

// A HeldQueue is one generation of a stage's restriction queue.
type HeldQueue struct {
	Job        string
	Stage      jobgraph.StageID
	Generation uint32
}

// A RunningTask is an attempt that runs in a slot; or, with slot -1, one that
// has ended, of which the report is yet to come.
type RunningTask struct {
	ID
	Slot int
}

// HeldPartitions are partitions of one dataset.
type HeldPartitions struct {
	Job        string
	Dataset    jobgraph.DatasetID
	Partitions []Partition
}
