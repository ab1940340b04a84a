package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"trestle/runner/jobgraph"
)

// A JobState is where a job stands, in the words of Beam's Job API.
type JobState string

const (
	Stopped    JobState = "STOPPED"  // prepared, not yet run; never in a State
	Starting   JobState = "STARTING" // accepted, no task has run yet; never in a State
	Running    JobState = "RUNNING"
	Draining   JobState = "DRAINING"
	Drained    JobState = "DRAINED"
	Cancelling JobState = "CANCELLING"
	Cancelled  JobState = "CANCELLED"
	Done       JobState = "DONE"
	Failed     JobState = "FAILED"
)

// Terminal reports whether a job in this state stays in it.
func (s JobState) Terminal() bool {
	return s == Done || s == Drained || s == Cancelled || s == Failed
}

// State is the fold of all records so far. It is not safe for concurrent use.
// What it hands out is read only.
type State struct {
	jobs    map[JobID]*Job // for look-ups; order is in accepted
	order   []*Job         // by acceptance
	active  []*Job         // those that have not ended, by acceptance
	applied uint64         // records that had an effect
	// managers may run tasks and hold partitions; by name.
	managers []TaskManager
}

// A TaskManager is one that may run tasks and hold partitions.
type TaskManager struct {
	Name   string
	Joined Instant
	Slots  int // when it joined
}

// NewState returns the state before the first record.
func NewState() *State { return &State{jobs: map[JobID]*Job{}} }

// Job returns the job, or nil.
func (s *State) Job(id JobID) *Job { return s.jobs[id] }

// Jobs are all jobs, ended ones too, by acceptance.
func (s *State) Jobs() []*Job { return s.order }

// Active are the jobs that have not ended, by acceptance.
func (s *State) Active() []*Job { return s.active }

// TaskManagers are those that may run tasks and hold partitions, by name.
func (s *State) TaskManagers() []TaskManager { return s.managers }

// TaskManager finds one of TaskManagers.
func (s *State) TaskManager(name string) (TaskManager, bool) {
	at, ok := s.managerAt(name)
	if !ok {
		return TaskManager{}, false
	}
	return s.managers[at], true
}

func (s *State) managerAt(name string) (int, bool) {
	return slices.BinarySearchFunc(s.managers, name, func(m TaskManager, name string) int { return strings.Compare(m.Name, name) })
}

// Applied is the number of records that had an effect.
func (s *State) Applied() uint64 { return s.applied }

// A Job is what is known of one job.
type Job struct {
	ID        JobID           `json:"id"`
	Name      string          `json:"name"`
	Accepted  Instant         `json:"accepted"`
	Options   json.RawMessage `json:"options,omitempty"`
	Pipeline  Hash            `json:"pipeline,omitempty"`
	Plan      Hash            `json:"plan"`
	Graph     *jobgraph.Graph `json:"graph"`
	Priority  int             `json:"priority,omitempty"`
	KeyGroups int             `json:"keyGroups"`
	Restart   RestartStrategy `json:"restart"`
	// MaxParallelism bounds the tasks of a stage; 0 doesn't.
	MaxParallelism int `json:"maxParallelism,omitempty"`

	State   JobState `json:"state"`
	Ended   Instant  `json:"ended,omitempty"`
	Failure *Failure `json:"failure,omitempty"` // why it FAILED

	Restarts     int           `json:"restarts,omitempty"`     // TasksReset records so far
	Failures     []Failure     `json:"failures,omitempty"`     // the latest maxFailures
	FailureTimes []Instant     `json:"failureTimes,omitempty"` // of those that were someone's fault; the latest maxFailureTimes
	Delay        time.Duration `json:"delay,omitempty"`        // before the latest restart

	Stages  []*Stage  `json:"stages"`  // parallel to Graph.Stages
	Regions []*Region `json:"regions"` // parallel to Graph.Regions

	finished     int   // stages all of whose tasks have finished
	metricsBytes int64 // of the tasks that have finished, and of what sources are bound to
	index        *graphIndex
}

// A Stage is what is known of one stage. Parallelism is 0, and Tasks is empty,
// until the stage's region was chosen.
type Stage struct {
	StageChoice
	Finished int    `json:"finished,omitempty"` // tasks that have finished
	Queue    uint32 `json:"queue,omitempty"`    // generation of the restriction queue
	Bounds   []byte `json:"bounds,omitempty"`   // of a source that is bound, as InputBound has them; never changed
	Tasks    []Task `json:"-"`                  // in snapshots, TasksRestored carries them
}

// Complete reports whether all of the stage's output is there.
func (s *Stage) Complete() bool { return s.Parallelism > 0 && s.Finished == s.Parallelism }

// A Task is what is known of one task: which attempt is wanted, and whether it
// has finished.
type Task struct {
	Attempt   uint32        `json:"attempt"`
	Failures  int           `json:"failures,omitempty"`  // that count against the restart strategy
	Losses    int           `json:"losses,omitempty"`    // that don't
	NotBefore Instant       `json:"notBefore,omitempty"` // when it may start
	Done      *TaskFinished `json:"done,omitempty"`      // of this attempt
	// Second is an attempt that was let run beside the first, 0 if none was. When
	// it has finished first, it is Attempt as well.
	Second uint32 `json:"second,omitempty"`
}

// Live reports whether the attempt is one of those that may yet finish the task.
func (t *Task) Live(attempt uint32) bool {
	return t.Done == nil && (attempt == t.Attempt || t.Second > 0 && attempt == t.Second)
}

// next is an attempt that nobody has begun.
func (t *Task) next() uint32 { return max(t.Attempt, t.Second) + 1 }

// A Region is what is known of one region.
type Region struct {
	Chosen Instant `json:"chosen,omitempty"` // when its parallelism was; 0 before
	Slots  int     `json:"slots,omitempty"`
	Why    string  `json:"why,omitempty"`
}

const (
	maxFailures     = 16
	maxFailureTimes = 256
)

// graphIndex finds the parts of a job graph by id, for graphs of thousands of
// stages.
type graphIndex struct {
	stages   map[jobgraph.StageID]int
	datasets map[jobgraph.DatasetID]int
	regions  map[jobgraph.RegionID]int
	regionOf []int // by stage
}

// MetricsBytes is the size of the metrics of the tasks that have finished, and
// of what sources are bound to: of an ended job most of what it takes.
func (j *Job) MetricsBytes() int64 { return j.metricsBytes }

// StageAt returns the number of the stage in Stages, or -1.
func (j *Job) StageAt(id jobgraph.StageID) int {
	if i, ok := j.index.stages[id]; ok {
		return i
	}
	return -1
}

// DatasetAt returns the number of the dataset in Graph.Datasets, or -1.
func (j *Job) DatasetAt(id jobgraph.DatasetID) int {
	if i, ok := j.index.datasets[id]; ok {
		return i
	}
	return -1
}

// Dataset returns the dataset of the job's graph, or nil.
func (j *Job) Dataset(id jobgraph.DatasetID) *jobgraph.Dataset {
	if i, ok := j.index.datasets[id]; ok {
		return j.Graph.Datasets[i]
	}
	return nil
}

// RegionOf returns the number in Regions of the region that holds the stage
// with that number.
func (j *Job) RegionOf(stage int) int { return j.index.regionOf[stage] }

// Subpartitions is the number of sub-partitions that the dataset is written in,
// which is known once its producer's parallelism is.
func (j *Job) Subpartitions(id jobgraph.DatasetID) int {
	for _, o := range j.Stages[j.StageAt(j.Dataset(id).Producer)].Outputs {
		if o.Dataset == id {
			return o.Subpartitions
		}
	}
	return 1
}
