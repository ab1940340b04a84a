package catalog

import (
	"encoding/json"
	"fmt"
	"time"

	"trestle/runner/jobgraph"
)

// An Instant is a point of time in nanoseconds since 1970, UTC. Records carry
// it because the fold reads no clock; 0 means never.
type Instant int64

// At turns a time into an Instant; the zero time becomes 0.
func At(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	return Instant(t.UnixNano())
}

// Time turns an Instant into a time; 0 becomes the zero time.
func (i Instant) Time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

// Add is the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub is the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// A JobID names a job for ever.
type JobID string

// A Hash is the SHA-256 of a stored blob, in lower-case hexadecimal.
type Hash string

// A TaskID names one attempt of one task of a job.
type TaskID struct {
	Stage   jobgraph.StageID `json:"stage"`
	Index   int              `json:"index"`
	Attempt uint32           `json:"attempt"`
}

func (t TaskID) String() string { return fmt.Sprintf("%s[%d]#%d", t.Stage, t.Index, t.Attempt) }

// A Record is one decision. The kinds are those of this file; a Record is
// never changed once it was made.
type Record interface {
	kind() kind
	// JobID names the job that the record is about; "" when it is about none.
	JobID() JobID
	fmt.Stringer
}

// JobAccepted begins a job. From when it is durable the job will be run to its
// end, whatever dies.
type JobAccepted struct {
	Job      JobID           `json:"job"`
	Name     string          `json:"name"`
	At       Instant         `json:"at"`
	Options  json.RawMessage `json:"options,omitempty"`  // as submitted, secrets redacted; nobody here reads them
	Pipeline Hash            `json:"pipeline,omitempty"` // as submitted
	Plan     Hash            `json:"plan"`               // the stored fusion.Plan
	Graph    *jobgraph.Graph `json:"graph"`
	// Priority weighs the job's share of slots: each step up doubles it.
	Priority int `json:"priority,omitempty"`
	// MaxParallelism is the most tasks that a stage may be cut into; 0 sets no
	// bound.
	MaxParallelism int `json:"maxParallelism,omitempty"`
	// KeyGroups is the number of sub-partitions of every ByKey dataset. It is
	// one number for the whole job: what is grouped together must have been
	// partitioned alike.
	KeyGroups int             `json:"keyGroups"`
	Restart   RestartStrategy `json:"restart"`
}

// A RestartKind names a rule for trying failed tasks again.
type RestartKind string

const (
	RestartNone        RestartKind = "none"         // the first failure fails the job
	RestartFixedDelay  RestartKind = "fixed-delay"  // Attempts restarts of any one task, Delay before each
	RestartExponential RestartKind = "exponential"  // as fixed-delay; the delay grows from Delay by Factor to MaxDelay, and starts again after a quiet Interval
	RestartFailureRate RestartKind = "failure-rate" // as long as the job has had at most Attempts failures within Interval
)

// A RestartStrategy says how often and when what failed is tried again.
type RestartStrategy struct {
	Kind     RestartKind   `json:"kind"`
	Attempts int           `json:"attempts,omitempty"` // 0 with exponential: no bound
	Delay    time.Duration `json:"delay,omitempty"`
	MaxDelay time.Duration `json:"maxDelay,omitempty"`
	Factor   float64       `json:"factor,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
}

// ParallelismChosen fixes how the stages of one region are cut into tasks. The
// region may start once the record is durable. A second one for a region whose
// tasks were all reset replaces the first.
type ParallelismChosen struct {
	Job    JobID             `json:"job"`
	Region jobgraph.RegionID `json:"region"`
	At     Instant           `json:"at"`
	Slots  int               `json:"slots"`         // that there were, when it was chosen
	Why    string            `json:"why,omitempty"` // for people
	Stages []StageChoice     `json:"stages"`        // all of the region, in its order
}

// A StageChoice is how one stage is cut into tasks.
type StageChoice struct {
	Stage       jobgraph.StageID `json:"stage"`
	Parallelism int              `json:"parallelism"`
	InputBytes  int64            `json:"inputBytes,omitempty"` // of its blocking inputs, that it was chosen from
	Inputs      []InputChoice    `json:"inputs,omitempty"`     // in the stage's order; side inputs are always read whole
	Outputs     []OutputChoice   `json:"outputs,omitempty"`    // in the stage's order
}

// A Reading says which part of a dataset a task reads.
type Reading string

const (
	// ReadRange: sub-partitions [Cuts[i], Cuts[i+1]) of every partition.
	ReadRange Reading = "range"
	// ReadPointwise: partitions [Cuts[i], Cuts[i+1]), each whole.
	ReadPointwise Reading = "pointwise"
	// ReadWhole: everything.
	ReadWhole Reading = "whole"
	// ReadQueue: whatever the task pulls from the stage's queue, which holds
	// everything.
	ReadQueue Reading = "queue"
)

// An InputChoice is how the tasks of a stage share one input.
type InputChoice struct {
	Dataset jobgraph.DatasetID `json:"dataset"`
	Reading Reading            `json:"reading"`
	Cuts    []int              `json:"cuts,omitempty"` // parallelism+1 of them, never falling
}

// An OutputChoice fixes the number of sub-partitions of a dataset.
type OutputChoice struct {
	Dataset       jobgraph.DatasetID `json:"dataset"`
	Subpartitions int                `json:"subpartitions"`
}

// TaskFinished says that a task's output is whole and committed. It is durable
// before any reader of the output is started.
type TaskFinished struct {
	Job         JobID    `json:"job"`
	Task        TaskID   `json:"task"`
	TaskManager string   `json:"tm,omitempty"`
	Slot        int      `json:"slot,omitempty"`
	Started     Instant  `json:"started,omitempty"`
	Ended       Instant  `json:"ended"`
	Outputs     []Output `json:"outputs,omitempty"` // in the stage's order
	InBytes     int64    `json:"inBytes,omitempty"`
	OutBytes    int64    `json:"outBytes,omitempty"`
	InElements  int64    `json:"inElements,omitempty"`
	OutElements int64    `json:"outElements,omitempty"`
	Metrics     []byte   `json:"metrics,omitempty"` // committed values, opaque and bounded
}

// An Output tells what a finished task wrote of one dataset.
type Output struct {
	Dataset jobgraph.DatasetID `json:"dataset"`
	Bytes   int64              `json:"bytes"`
	Count   int64              `json:"count"`
	Sketch  Sketch             `json:"sketch,omitempty"`
	Durable Durability         `json:"durable,omitempty"`
}

// Durability says with what a partition is lost.
type Durability string

const (
	InMemory Durability = "memory" // with its TaskManager's process
	OnDisk   Durability = "disk"   // with its TaskManager's disk
	InBlob   Durability = "blob"   // with the object store
)

// A FailureKind says whose fault a failure is. It decides what is tried again
// and what the tries are counted against.
type FailureKind string

const (
	FailureUser      FailureKind = "user"         // the user's code raised
	FailureWorker    FailureKind = "worker"       // an SDK worker died or broke the protocol
	FailureRunner    FailureKind = "runner"       // what is nobody else's
	FailureDisk      FailureKind = "disk"         // its TaskManager's disk is full; others may have room
	FailurePartition FailureKind = "partition"    // an input was missing or corrupt; not the task's fault
	FailureLost      FailureKind = "task manager" // the TaskManager, or its memory of the task, is gone
	FailureSource    FailureKind = "source"       // what a bounded source holds could not be found out
)

// Blameless reports whether the failed task itself did nothing wrong, so that
// the try doesn't count against its restart strategy.
func (k FailureKind) Blameless() bool {
	return k == FailurePartition || k == FailureLost || k == FailureDisk
}

// A Failure is why something was reset or a job ended.
type Failure struct {
	Kind        FailureKind `json:"kind"`
	Task        TaskID      `json:"task,omitzero"` // the one that failed; zero when a whole TaskManager went
	TaskManager string      `json:"tm,omitempty"`
	At          Instant     `json:"at"`
	Message     string      `json:"message"` // for the user
}

// A TaskRange is the tasks [Lo, Hi) of a stage.
type TaskRange struct {
	Stage jobgraph.StageID `json:"stage"`
	Lo    int              `json:"lo"`
	Hi    int              `json:"hi"`
}

// TasksReset takes tasks back, finished ones too: each gets a new attempt, and
// what older attempts wrote counts for nothing (a new generation of the
// datasets begins). The tasks in Blamed have had one more failure.
type TasksReset struct {
	Job   JobID       `json:"job"`
	At    Instant     `json:"at"`
	Tasks []TaskRange `json:"tasks"`
	// Blamed are those of Tasks that failed, or share a slot with what failed.
	Blamed []TaskRange `json:"blamed,omitempty"`
	// Queues are stages whose restriction queue begins again from its inputs;
	// all of a named stage's tasks are in Tasks.
	Queues  []jobgraph.StageID `json:"queues,omitempty"`
	Failure Failure            `json:"failure"`
	// Delay is how long the blamed tasks wait before they start again.
	Delay time.Duration `json:"delay,omitempty"`
}

// TaskDoubled lets a second attempt of a task run beside the first, which is
// slow. Whichever finishes first is the one that counts.
type TaskDoubled struct {
	Job  JobID   `json:"job"`
	Task TaskID  `json:"task"` // the second attempt: one more than the first
	At   Instant `json:"at"`
	Why  string  `json:"why,omitempty"` // for people
}

// InputBound says what exactly a bounded source of a job is to be read from and
// to. It is found out once, after the job was accepted: the stage starts with
// these bounds as its one element, whoever leads and however often it runs.
type InputBound struct {
	Job   JobID            `json:"job"`
	Stage jobgraph.StageID `json:"stage"`
	At    Instant          `json:"at"`
	// Bounds are the source's own business. They hold no secrets.
	Bounds []byte   `json:"bounds"`
	Notes  []string `json:"notes,omitempty"` // for the job's author
}

// A StopMode says how a running job is to end early.
type StopMode string

const (
	StopCancel StopMode = "cancel" // tasks are stopped; the job ends CANCELLED
	StopDrain  StopMode = "drain"  // what has begun is worked off; the job ends DRAINED
)

// StopRequested asks a job to end early. Cancel overrides drain.
type StopRequested struct {
	Job  JobID    `json:"job"`
	At   Instant  `json:"at"`
	Mode StopMode `json:"mode"`
}

// JobEnded ends a job that failed or was cancelled. A job that did all its
// work ends with its last TaskFinished.
type JobEnded struct {
	Job     JobID    `json:"job"`
	At      Instant  `json:"at"`
	State   JobState `json:"state"`
	Failure *Failure `json:"failure,omitempty"` // set when State is Failed
}

// JobForgotten removes an ended job from history.
type JobForgotten struct {
	Job JobID `json:"job"`
}

// JobRestored carries a job's whole state but its tasks. Only snapshots hold
// it; TasksRestored records of the same job follow.
type JobRestored struct {
	State *Job `json:"state"`
}

// TasksRestored carries tasks [From, From+len(Tasks)) of a stage.
type TasksRestored struct {
	Job   JobID            `json:"job"`
	Stage jobgraph.StageID `json:"stage"`
	From  int              `json:"from"`
	Tasks []Task           `json:"tasks"`
}

// TaskManagerJoined says that from here on a TaskManager may run tasks and hold
// partitions: whoever leads next waits for it to tell what it has, before it
// takes anything to be gone. One that has nothing needs no record.
type TaskManagerJoined struct {
	Name  string  `json:"name"`
	At    Instant `json:"at"`
	Slots int     `json:"slots,omitempty"` // for people
}

// TaskManagerLost says that a TaskManager is no longer waited for. It may join
// again.
type TaskManagerLost struct {
	Name string  `json:"name"`
	At   Instant `json:"at"`
}

// JobID names the job that the record is about.
func (r *JobAccepted) JobID() JobID       { return r.Job }
func (r *ParallelismChosen) JobID() JobID { return r.Job }
func (r *TaskFinished) JobID() JobID      { return r.Job }
func (r *TasksReset) JobID() JobID        { return r.Job }
func (r *StopRequested) JobID() JobID     { return r.Job }
func (r *JobEnded) JobID() JobID          { return r.Job }
func (r *JobForgotten) JobID() JobID      { return r.Job }
func (r *JobRestored) JobID() JobID       { return r.State.ID }
func (r *TasksRestored) JobID() JobID     { return r.Job }
func (r *TaskDoubled) JobID() JobID       { return r.Job }
func (r *InputBound) JobID() JobID        { return r.Job }
func (*TaskManagerJoined) JobID() JobID   { return "" }
func (*TaskManagerLost) JobID() JobID     { return "" }

// Count is the number of tasks that are taken back.
func (r *TasksReset) Count() int {
	n := 0
	for _, x := range r.Tasks {
		n += x.Hi - x.Lo
	}
	return n
}
