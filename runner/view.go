package runner

import (
	"encoding/json"
	"strconv"
	"time"

	"trestle/element"
	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A Summary is a job in one line. Times are zero until they have come.
type Summary struct {
	ID       string           `json:"id"`
	Name     string           `json:"name"`
	State    catalog.JobState `json:"state"`
	Accepted time.Time        `json:"accepted"`
	Started  time.Time        `json:"started,omitzero"` // its first task
	Ended    time.Time        `json:"ended,omitzero"`
	Priority int              `json:"priority"`
	Error    string           `json:"error,omitempty"` // why it FAILED, in the user's terms
	Restarts int              `json:"restarts"`
	Tasks    Counts           `json:"tasks"` // of the stages whose parallelism is chosen
	// Options are as submitted, secrets redacted; read only.
	Options json.RawMessage `json:"options,omitempty"`
}

// Counts are tasks by state.
type Counts struct {
	Waiting  int `json:"waiting"`
	Running  int `json:"running"`
	Finished int `json:"finished"`
	Stopped  int `json:"stopped,omitempty"` // not finished when the job ended
}

// Total is the number of tasks that there are.
func (c Counts) Total() int { return c.Waiting + c.Running + c.Finished + c.Stopped }

// A Job is all there is to be shown of a job, as it was at one moment.
type Job struct {
	Summary
	Pipeline string                  `json:"pipeline,omitempty"`
	Plan     string                  `json:"plan"`
	Graph    *jobgraph.Graph         `json:"graph"`
	Restart  catalog.RestartStrategy `json:"restartStrategy"`
	Regions  []Region                `json:"regions"`
	Stages   []Stage                 `json:"stages"`
	Failures []Failure               `json:"failures,omitempty"` // the latest few, oldest first
}

// A Progress says how far a region, stage or task is.
type Progress string

const (
	Waiting  Progress = "waiting" // for its inputs, or for a slot
	Running  Progress = "running"
	Finished Progress = "finished"
	Failed   Progress = "failed"  // the job with it
	Stopped  Progress = "stopped" // before it was finished, because the job has ended
)

// A Region is a pipeline region of a job.
type Region struct {
	ID      jobgraph.RegionID  `json:"id"`
	State   Progress           `json:"state"`
	Stages  []jobgraph.StageID `json:"stages"`
	Decided time.Time          `json:"decided,omitzero"` // when its parallelism was chosen
	Slots   int                `json:"slots,omitempty"`  // that there were then
	Why     string             `json:"why,omitempty"`    // how it was chosen
}

// A Stage is a stage of a job with its tasks.
type Stage struct {
	ID          jobgraph.StageID  `json:"id"`
	Name        string            `json:"name"`
	Environment string            `json:"environment,omitempty"`
	Root        jobgraph.RootKind `json:"root"`
	Region      jobgraph.RegionID `json:"region"`
	State       Progress          `json:"state"`
	Parallelism int               `json:"parallelism"`          // 0 until it is chosen
	ChosenFrom  int64             `json:"chosenFrom,omitempty"` // bytes of blocking input that it was chosen from
	Started     time.Time         `json:"started,omitzero"`
	Ended       time.Time         `json:"ended,omitzero"`
	Amounts
	Watermarks *Watermarks `json:"watermarks,omitempty"` // the least of its running tasks'
	Tasks      []Task      `json:"tasks,omitempty"`
}

// Amounts are what went in and out so far.
type Amounts struct {
	InBytes     int64 `json:"inBytes"`
	OutBytes    int64 `json:"outBytes"`
	InElements  int64 `json:"inElements"`
	OutElements int64 `json:"outElements"`
}

// A Task is the current attempt of one task.
type Task struct {
	Index       int       `json:"index"`
	Attempt     uint32    `json:"attempt"`
	State       Progress  `json:"state"`
	TaskManager string    `json:"taskManager,omitempty"`
	Slot        int       `json:"slot"`
	Started     time.Time `json:"started,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	Failures    int       `json:"failures,omitempty"` // of earlier attempts
	Amounts
	Watermarks *Watermarks `json:"watermarks,omitempty"` // while it runs, and streams
	Durable    string      `json:"durable,omitempty"`    // of what it wrote: memory, disk or blob
}

// Watermarks are how far in event time a streaming task is, or a stage of such:
// nothing earlier will come in, and nothing earlier will go out, but what is
// late.
type Watermarks struct {
	Input  Watermark `json:"input"`
	Output Watermark `json:"output"`
}

// A Watermark is told in milliseconds since the epoch, and as -inf and +inf at
// Beam's bounds.
type Watermark element.Timestamp

// MarshalText tells it; see the type.
func (w Watermark) MarshalText() ([]byte, error) {
	if w >= Watermark(element.EndOfGlobalWindow) {
		w = Watermark(element.MaxTimestamp)
	}
	return []byte(element.Timestamp(w).String()), nil
}

// UnmarshalText reads what MarshalText tells.
func (w *Watermark) UnmarshalText(text []byte) error {
	switch string(text) {
	case element.MinTimestamp.String():
		*w = Watermark(element.MinTimestamp)
		return nil
	case element.MaxTimestamp.String():
		*w = Watermark(element.MaxTimestamp)
		return nil
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	*w = Watermark(n)
	return err
}

// String tells it to people: a time, or one of the bounds.
func (w Watermark) String() string {
	if w <= Watermark(element.MinTimestamp) || w >= Watermark(element.EndOfGlobalWindow) {
		text, _ := w.MarshalText()
		return string(text)
	}
	return time.UnixMilli(int64(w)).UTC().Format("2006-01-02T15:04:05.000Z")
}

// A Failure is something that went wrong on the way.
type Failure struct {
	At          time.Time        `json:"at"`
	Kind        string           `json:"kind"`
	Stage       jobgraph.StageID `json:"stage,omitempty"`
	Index       int              `json:"index"`
	Attempt     uint32           `json:"attempt"`
	TaskManager string           `json:"taskManager,omitempty"`
	Message     string           `json:"message"`
}

// A Status is a state that a job has come to.
type Status struct {
	State catalog.JobState `json:"state"`
	At    time.Time        `json:"at"`
	Error string           `json:"error,omitempty"` // when State is FAILED
}

// A TaskMetrics is one task's encoded metrics (as its TaskManager reported
// them). Merged, the finished ones are a job's committed values; all together
// are its attempted values.
type TaskMetrics struct {
	Stage    jobgraph.StageID
	Index    int
	Attempt  uint32
	Finished bool
	Set      []byte
}
