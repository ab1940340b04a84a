package schedule

import (
	"slices"
	"strings"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// Seen is what was observed: which TaskManagers there are, what runs in their
// slots, which partitions are known to be gone, and what happened since the
// last Decide. Its owner tells it what happens; only Decide reads it. It is
// not safe for concurrent use.
type Seen struct {
	managers []*manager // by name; only those that are there
	jobs     map[catalog.JobID]*jobSeen
	running  map[runKey]*running // for look-ups
	events   []event
	known    bool     // what no TaskManager told of is not there
	early    []failed // before known
}

// A manager is a TaskManager that is there.
type manager struct {
	name     string
	slots    []slot
	free     int                    // slots that hold nothing
	ended    []*running             // have left their slots, but their ends are yet to be told
	draining bool                   // nothing new is started on it
	drains   map[catalog.JobID]bool // jobs that it was told to drain; for look-ups

	troubles  []trouble // of late, the oldest first; see shun.go
	outruns   []trouble // likewise
	shunned   catalog.Instant
	shunnings int
}

// A slot holds the tasks of one column, until the last has ended.
type slot struct {
	job   *jobSeen // nil when the slot is free
	tasks []*running
}

// A running task is in a slot.
type running struct {
	job       catalog.JobID
	id        catalog.TaskID
	manager   *manager
	slot      int             // -1: none any more
	since     catalog.Instant // when it was started, or first heard of
	cancelled bool            // it was told to stop
}

type runKey struct {
	job catalog.JobID
	id  catalog.TaskID
}

// jobSeen is what was observed of one job that has not been released.
type jobSeen struct {
	id catalog.JobID
	// launched holds, by stage and task, one more than the attempt that was
	// started last; 0 when none was. It is what tells a waiting task from one
	// that runs.
	launched [][]uint32
	// gone holds, by dataset of the graph and partition, one more than the
	// latest attempt that is known not to be there any more.
	gone     [][]uint32
	released []bool      // by dataset: all readers have finished, partitions are freed
	freed    bool        // the job has ended, and all its partitions are freed
	parts    []*parts    // by dataset: what its readers are told; nil when not yet made
	queues   []queueSeen // by stage: of those that have a restriction queue
	took     []took      // by stage; see twice.go
	cursor   []int       // by region: all units before it are launched or done
	binding  []bool      // by stage: its source's bounds are being found out; nil when none
	slots    int         // that the job's tasks occupy
	// unexplained are failures whose cause is yet to be told by other tasks; at
	// most one for each task that was started.
	unexplained []failed
	// passed counts how often others were started while the job waited, since it
	// was started last; each start of a job of twice the priority is worth half.
	passed float64
}

// parts is what readers of a dataset are told; all share it, and nobody
// changes it.
type parts struct {
	partitions []jobgraph.Partition
	at         []string // by partition: where it is
	only       string   // where all of them are, or "" when at must be asked
}

// queueSeen is what was seen of one generation of a restriction queue.
type queueSeen struct {
	generation uint32
	at         string // the TaskManager that keeps it; "" until the first task is started
	lost       bool
	drained    bool // it has read all of its input: the stage was complete once
}

// An event is something that happened and was not yet decided upon.
type event interface{ decide(c *call) }

// NewSeen returns a Seen that has seen nothing.
func NewSeen() *Seen {
	return &Seen{jobs: map[catalog.JobID]*jobSeen{}, running: map[runKey]*running{}}
}

// Pending reports whether something happened that was not yet decided upon.
func (s *Seen) Pending() bool { return len(s.events) > 0 }

// Accepted says that a job was submitted. The record must fit the state.
func (s *Seen) Accepted(r *catalog.JobAccepted) { s.events = append(s.events, accepted{r}) }

// StopRequested says that someone wants a job to end early.
func (s *Seen) StopRequested(r *catalog.StopRequested) {
	s.events = append(s.events, stopRequested{r})
}

// Finished says that a task has ended well. TaskManager is who says so, Slot
// nothing: Decide fills in where the task is known to have run.
func (s *Seen) Finished(r *catalog.TaskFinished) { s.events = append(s.events, finished{r}) }

// A Lost partition is one that a task could not read.
type Lost struct {
	Dataset jobgraph.DatasetID
	jobgraph.Partition
}

// Failed says that a task has ended without effect. Cancelled tasks fail with
// kind FailureLost; it is known which were told to stop.
func (s *Seen) Failed(job catalog.JobID, f catalog.Failure, lost []Lost) {
	s.events = append(s.events, failed{job, f, lost})
}

// A RunningTask is a task that a TaskManager says it runs.
type RunningTask struct {
	Job  catalog.JobID
	ID   catalog.TaskID
	Slot int // -1 for a task that has ended, of which the report is on its way
}

// Held are partitions of a dataset that a TaskManager says it has.
type Held struct {
	Job        catalog.JobID
	Dataset    jobgraph.DatasetID
	Partitions []jobgraph.Partition
}

// A HeldQueue is a generation of a stage's restriction queue that a TaskManager
// says it keeps.
type HeldQueue struct {
	Job        catalog.JobID
	Stage      jobgraph.StageID
	Generation uint32
}

// Joined says that a TaskManager is there, with what it runs, holds and keeps.
// If one of that name was there, what it had and this one hasn't is gone.
func (s *Seen) Joined(name string, slots int, runs []RunningTask, held []Held, queues []HeldQueue) {
	s.events = append(s.events, joined{name, slots, runs, held, queues})
}

// LostManager says that a TaskManager is gone, with all that it ran and what
// it held in memory or on its disk.
func (s *Seen) LostManager(name string, at catalog.Instant) {
	s.events = append(s.events, lostManager{name, at})
}

// Draining says that a TaskManager wants no new tasks. What it runs goes on, and
// what it holds is read, until it is lost.
func (s *Seen) Draining(name string) { s.events = append(s.events, draining{name}) }

// Known says, once after a start, that all TaskManagers have joined that may
// have something (catalog's TaskManagers), or will not: what none of them told
// of is not there. Nothing is started before, and nothing run again.
func (s *Seen) Known(at catalog.Instant) { s.events = append(s.events, known{at}) }

// Idle reports whether a TaskManager that is draining can leave and nothing
// will be missed: it runs nothing, and nobody will read what it alone holds.
func (s *Seen) Idle(state *catalog.State, name string) bool {
	m := s.manager(name)
	if m == nil {
		return true
	}
	if m.free < len(m.slots) || len(m.ended) > 0 || len(s.events) > 0 || !s.known {
		return false
	}
	for _, j := range state.Active() {
		js := s.jobs[j.ID]
		if js == nil || js.keeps(j, name) {
			return false
		}
	}
	return true
}

// totalSlots is the number of slots that tasks can be started in, if not now.
func (s *Seen) totalSlots() int {
	n := 0
	for _, m := range s.managers {
		if !m.draining {
			n += len(m.slots)
		}
	}
	return n
}

func (s *Seen) manager(name string) *manager {
	i, ok := slices.BinarySearchFunc(s.managers, name, func(m *manager, name string) int { return strings.Compare(m.name, name) })
	if !ok {
		return nil
	}
	return s.managers[i]
}

func (s *Seen) addManager(name string, slots int) *manager {
	m := &manager{name: name, slots: make([]slot, slots), free: slots}
	i, _ := slices.BinarySearchFunc(s.managers, name, func(m *manager, name string) int { return strings.Compare(m.name, name) })
	s.managers = slices.Insert(s.managers, i, m)
	return m
}

// removeManager takes away a TaskManager and returns what ran there.
func (s *Seen) removeManager(m *manager) (ran []*running) {
	s.managers = slices.DeleteFunc(s.managers, func(x *manager) bool { return x == m })
	ran = slices.Clone(m.ended)
	for i := range m.slots {
		ran = append(ran, m.slots[i].tasks...)
	}
	for _, r := range ran {
		s.vacate(r.job, r.id)
	}
	return ran
}

// occupy puts a task into a slot, which is free or holds tasks of the same
// column; or, if the slot is -1, notes that its end is yet to be told.
func (s *Seen) occupy(m *manager, at int, js *jobSeen, id catalog.TaskID) *running {
	r := &running{job: js.id, id: id, manager: m, slot: at}
	s.running[runKey{js.id, id}] = r
	if at < 0 {
		m.ended = append(m.ended, r)
		return r
	}
	sl := &m.slots[at]
	if sl.job == nil {
		sl.job = js
		js.slots++
		m.free--
	}
	sl.tasks = append(sl.tasks, r)
	return r
}

// vacate takes an ended task out of its slot. It returns where it ran, or nil
// if it ran nowhere.
func (s *Seen) vacate(job catalog.JobID, id catalog.TaskID) *running {
	key := runKey{job, id}
	r := s.running[key]
	if r == nil {
		return nil
	}
	delete(s.running, key)
	is := func(t *running) bool { return t == r }
	if r.slot < 0 {
		r.manager.ended = slices.DeleteFunc(r.manager.ended, is)
		return r
	}
	sl := &r.manager.slots[r.slot]
	sl.tasks = slices.DeleteFunc(sl.tasks, is)
	if len(sl.tasks) == 0 {
		sl.job.slots--
		sl.job = nil
		r.manager.free++
	}
	return r
}

// job returns what was seen of a job, which it begins to watch if need be.
func (s *Seen) job(j *catalog.Job) *jobSeen {
	js := s.jobs[j.ID]
	if js == nil {
		js = &jobSeen{
			id:       j.ID,
			launched: make([][]uint32, len(j.Stages)),
			gone:     make([][]uint32, len(j.Graph.Datasets)),
			released: make([]bool, len(j.Graph.Datasets)),
			parts:    make([]*parts, len(j.Graph.Datasets)),
			queues:   make([]queueSeen, len(j.Stages)),
			took:     make([]took, len(j.Stages)),
			cursor:   make([]int, len(j.Regions)),
		}
		s.jobs[j.ID] = js
		for i := range j.Stages {
			js.grow(j, i)
		}
		if !s.known {
			js.doubtAll(j)
		}
	}
	return js
}

// grow makes room for the tasks of a stage and their outputs.
func (js *jobSeen) grow(j *catalog.Job, stage int) {
	tasks := len(j.Stages[stage].Tasks)
	grow := func(of *[]uint32) {
		if more := tasks - len(*of); more > 0 {
			*of = append(*of, make([]uint32, more)...)
		}
	}
	grow(&js.launched[stage])
	for _, id := range j.Graph.Stages[stage].Outputs {
		grow(&js.gone[j.DatasetAt(id)])
	}
}

// doubtAll takes everything that is not in an object store to be gone, until a
// TaskManager says that it has it.
func (js *jobSeen) doubtAll(j *catalog.Job) {
	js.loseWhat(j, func(string) bool { return true })
	for i, st := range j.Stages {
		if j.Graph.Stages[i].Root == jobgraph.RootRestrictions && st.Parallelism > 0 {
			js.queues[i] = queueSeen{generation: st.Queue, lost: true}
		}
	}
}

// loseAt notes as gone what a TaskManager held and kept.
func (js *jobSeen) loseAt(j *catalog.Job, name string) {
	js.loseWhat(j, func(at string) bool { return at == name })
	for i := range js.queues {
		q := &js.queues[i]
		q.lost = q.lost || q.at == name
	}
}

// loseWhat notes as gone what finished tasks wrote on those TaskManagers.
func (js *jobSeen) loseWhat(j *catalog.Job, at func(name string) bool) {
	for _, st := range j.Stages {
		for i := range st.Tasks {
			t := &st.Tasks[i]
			if t.Done == nil || !at(t.Done.TaskManager) {
				continue
			}
			for _, o := range t.Done.Outputs {
				if o.Durable != catalog.InBlob {
					js.lose(j.DatasetAt(o.Dataset), i, t.Attempt)
				}
			}
		}
	}
}

// keeps reports whether the job would miss something with the TaskManager.
func (js *jobSeen) keeps(j *catalog.Job, name string) bool {
	for s, st := range j.Stages {
		if q := js.queues[s]; q.at == name && q.generation == st.Queue && !q.lost && !st.Complete() {
			return true
		}
		for i := range st.Tasks {
			t := &st.Tasks[i]
			if t.Done == nil || t.Done.TaskManager != name {
				continue
			}
			for _, o := range t.Done.Outputs {
				if o.Durable != catalog.InBlob && js.available(j.DatasetAt(o.Dataset), i, t) {
					return true
				}
			}
		}
	}
	return false
}

// begun reports whether the task was started, or a second attempt of it.
func (js *jobSeen) begun(t *catalog.Task, stage, index int) bool {
	n := js.launched[stage][index]
	return n == t.Attempt+1 || t.Second > 0 && n == t.Second+1
}

// fed reports whether a stage takes its input from a queue that has read all of
// it: what its tasks have taken comes back to the queue when they run again, and
// the input itself is no longer needed.
func (js *jobSeen) fed(stage int, st *catalog.Stage) bool {
	q := js.queue(stage, st)
	q.drained = q.drained || st.Complete()
	return q.at != "" && !q.lost && q.drained
}

// queue is the current generation of a stage's restriction queue.
func (js *jobSeen) queue(stage int, st *catalog.Stage) *queueSeen {
	q := &js.queues[stage]
	if q.generation != st.Queue {
		*q = queueSeen{generation: st.Queue}
	}
	return q
}

// lose notes that a partition is not there.
func (js *jobSeen) lose(dataset, partition int, attempt uint32) {
	js.gone[dataset][partition] = max(js.gone[dataset][partition], attempt+1)
}

// available reports whether a partition can be read: its producer has
// finished, and it is not known to be gone.
func (js *jobSeen) available(dataset, partition int, producer *catalog.Task) bool {
	return producer.Done != nil && js.gone[dataset][partition] <= producer.Attempt
}
