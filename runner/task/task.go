// Package task runs one subtask of a stage: input, bundles, output.
package task

import (
	"trestle/element"
	"trestle/runner/jobgraph"
)

// An ID names one attempt of one subtask.
type ID struct {
	Job     string
	Stage   jobgraph.StageID
	Index   int
	Attempt uint32
}

// A Spec is all that a TaskManager must know to run a task. It names the plan
// by hash; everything else that was decided is here.
type Spec struct {
	ID
	Plan        string // content hash of the stored fusion.Plan
	Parallelism int    // how many subtasks the stage has
	// KeyGroups is the number of key groups of a streaming job, 0 for others. The
	// tasks of a stage, and so the sub-partitions that they read, each have a range
	// of them.
	KeyGroups int
	Slot      int // of the TaskManager; all tasks started together have the same
	// Queue is the generation of the restriction queue that tasks of a
	// RootRestrictions stage pull from: those of equal job, stage and Queue share
	// one. What a failed task pulled goes back to it. A new generation begins
	// again with the whole input.
	Queue uint32
	// QueueAt is the TaskManager that keeps the queue; "" is the task's own.
	QueueAt    string
	Inputs     []Input
	SideInputs []Input
	Outputs    []Output
	// Impulse is the one element that a RootImpulse stage starts from, without
	// its length: mostly no bytes.
	Impulse []byte
}

// An Input is what the task reads of one dataset: sub-partitions [Lo, Hi) of
// these partitions. A task of a RootRestrictions stage is given the whole
// dataset; it shares its elements with the other tasks of the stage through
// their queue.
type Input struct {
	Dataset    jobgraph.DatasetID
	Partitions []Partition
	// At names, by partition, the TaskManager that has it. "" is in no one's
	// keeping but the object store's; nil means that all are at the task's own.
	// Partitions and At are shared between tasks and read only.
	At     []string
	Lo, Hi int
}

// A Partition is one producer task's output.
type Partition = jobgraph.Partition

// An Output tells how many sub-partitions to write of a dataset.
type Output struct {
	Dataset       jobgraph.DatasetID
	Subpartitions int
}

// A Finished report ends a task that committed its output.
type Finished struct {
	ID
	Outputs                                    []OutputSize
	Metrics                                    []byte // encoded runner/metrics.Set, bounded
	InBytes, OutBytes, InElements, OutElements int64
}

// An OutputSize tells what the task wrote of one dataset.
type OutputSize struct {
	Dataset jobgraph.DatasetID
	Bytes   int64
	Count   int64
	BySub   []int64
	Durable string
}

// A Cause says whose fault a failed task is, and so what is tried again.
type Cause string

const (
	CauseUser      Cause = "user"      // the user's code raised; Message has it
	CauseWorker    Cause = "worker"    // an SDK worker died or broke the protocol
	CausePartition Cause = "partition" // an input partition is missing or corrupt: Lost
	CauseDisk      Cause = "disk"      // the TaskManager's disk is full
	CauseRunner    Cause = "runner"    // what is nobody else's
	CauseKeeper    Cause = "keeper"    // who keeps the stage's queue can't be reached, or has none
	CauseCanceled  Cause = "canceled"
)

// A Failed report ends a task that left nothing behind.
type Failed struct {
	ID
	Cause   Cause
	Message string // for the user: the transform's name and the SDK's own words
	Lost    []LostPartition
}

// A LostPartition is an input that must be made again.
type LostPartition struct {
	Dataset jobgraph.DatasetID
	Partition
}

// Progress is what a running task has done so far; volatile.
type Progress struct {
	ID
	InBytes, OutBytes, InElements, OutElements int64
	Metrics                                    []byte
	Watermarks                                 *Watermarks // of a streaming task
}

// Watermarks are how far a streaming task is: what its inputs have said, and
// what it has told downstream.
type Watermarks struct{ Input, Output element.Timestamp }
