package schedule

import (
	"fmt"
	"slices"
	"strings"

	"trestle/internal/invariant"
	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A Decision is what Decide wants.
type Decision struct {
	// Records are to be made durable, in order. They are folded into the state
	// already.
	Records []catalog.Record
	// Actions are to be done, in order, once Records are durable.
	Actions []Action
	// WakeAt is when to decide again though nothing has happened; 0 is never.
	WakeAt catalog.Instant
}

// An Action is something to be done outside. Each may be done twice.
type Action interface {
	fmt.Stringer
	action()
}

// Start runs the tasks of a column together in one slot.
type Start struct {
	TaskManager string
	Slot        int
	Job         catalog.JobID
	Plan        catalog.Hash
	Tasks       []TaskSpec
}

// A TaskSpec is what a task must know beyond its plan.
type TaskSpec struct {
	ID          catalog.TaskID
	Parallelism int
	Queue       uint32
	KeyGroups   int    // of the job, where tasks own key groups; else 0
	QueueAt     string // the TaskManager that keeps the queue; "" if there is none
	Inputs      []Input
	SideInputs  []Input
	Outputs     []catalog.OutputChoice
	Impulse     []byte // what a source is bound to
}

// An Input is what a task reads of a dataset: sub-partitions [Lo, Hi) of the
// partitions. At is, by partition, the TaskManager that has it, "" for the
// object store; nil when all are at the task's own. Partitions and At are shared
// between tasks and read only.
type Input struct {
	Dataset    jobgraph.DatasetID
	Partitions []jobgraph.Partition
	At         []string
	Lo, Hi     int
}

// Cancel stops tasks.
type Cancel struct {
	TaskManager string
	Job         catalog.JobID
	Tasks       []catalog.TaskID
}

// Release frees partitions that a TaskManager holds.
type Release struct {
	TaskManager string
	Job         catalog.JobID
	Dataset     jobgraph.DatasetID
	Partitions  []jobgraph.Partition
}

// ReleaseJob frees all that any TaskManager has of a job. It no longer runs.
type ReleaseJob struct {
	Job catalog.JobID
}

func (Start) action()      {}
func (Cancel) action()     {}
func (Release) action()    {}
func (ReleaseJob) action() {}

func (a Start) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "start %s on %s/%d:", a.Job, a.TaskManager, a.Slot)
	for _, t := range a.Tasks {
		fmt.Fprintf(&b, " %s", t.ID)
		if t.Impulse != nil {
			fmt.Fprintf(&b, " %s", t.Impulse)
		}
		for _, in := range t.Inputs {
			fmt.Fprintf(&b, " %s", in)
		}
		for _, in := range t.SideInputs {
			fmt.Fprintf(&b, " side %s", in)
		}
		if t.Queue > 0 {
			fmt.Fprintf(&b, " queue=%d", t.Queue)
		}
		if t.QueueAt != "" && t.QueueAt != a.TaskManager {
			fmt.Fprintf(&b, " queue at %s", t.QueueAt)
		}
	}
	return b.String()
}

// String prints the dataset, the partitions, where they are unless it is the
// task's own TaskManager, and the sub-partitions: d1(0#0 1#2@b 2#0@)[0,64).
func (in Input) String() string {
	return fmt.Sprintf("%s(%s)[%d,%d)", in.Dataset, partitions(in.Partitions, in.At), in.Lo, in.Hi)
}

func partitions(ps []jobgraph.Partition, at []string) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d#%d", p.Index, p.Attempt)
		if at != nil {
			fmt.Fprintf(&b, "@%s", at[i])
		}
	}
	return b.String()
}

func (a Cancel) String() string {
	s := fmt.Sprintf("cancel %s on %s:", a.Job, a.TaskManager)
	for _, t := range a.Tasks {
		s += " " + t.String()
	}
	return s
}

func (a Release) String() string {
	return fmt.Sprintf("release %s on %s: %s(%s)", a.Job, a.TaskManager, a.Dataset, partitions(a.Partitions, nil))
}

func (a ReleaseJob) String() string { return fmt.Sprintf("release %s", a.Job) }

// A call is one Decide under way.
type call struct {
	state  *catalog.State
	seen   *Seen
	policy Policy
	now    catalog.Instant
	out    Decision
	stray  bool     // tasks may be running that are not wanted
	later  []Action // after those that stop stray tasks
}

// Decide takes what was seen since the last time and returns what follows. It
// folds the records that it proposes into state, and notes in seen what it
// wants started and released, so that it can be called again before they are
// durable or done.
func Decide(state *catalog.State, seen *Seen, policy Policy, now catalog.Instant) Decision {
	c := &call{state: state, seen: seen, policy: policy.WithDefaults(), now: now}
	events := seen.events
	seen.events = nil
	for _, e := range events {
		e.decide(c)
	}
	if !seen.known {
		return c.out
	}
	c.bindSources()
	c.chooseReady()
	c.startReady()
	c.stopStray()
	c.drainJobs()
	c.out.Actions = append(c.out.Actions, c.later...)
	c.endJobs()
	return c.out
}

// propose adds a record. It must fit the state: whoever proposes has checked.
func (c *call) propose(r catalog.Record) {
	err := c.state.Apply(r)
	invariant.Check(err == nil, "schedule proposes a record that doesn't fit: %v", err)
	c.out.Records = append(c.out.Records, r)
}

func (c *call) act(a Action) { c.out.Actions = append(c.out.Actions, a) }

// wakeAt asks to be called at that instant, or earlier.
func (c *call) wakeAt(at catalog.Instant) {
	if c.out.WakeAt == 0 || at < c.out.WakeAt {
		c.out.WakeAt = at
	}
}

// stopStray stops running tasks that nobody wants any more: of jobs that have
// ended or are being cancelled, and of attempts that were given up.
func (c *call) stopStray() {
	if !c.stray {
		return
	}
	for _, m := range c.seen.managers {
		for i := range m.slots {
			var ids []catalog.TaskID
			for _, r := range m.slots[i].tasks {
				if !r.cancelled && !c.wanted(r.job, r.id) {
					r.cancelled = true
					ids = append(ids, r.id)
				}
			}
			if len(ids) > 0 {
				c.act(Cancel{TaskManager: m.name, Job: m.slots[i].job.id, Tasks: ids})
			}
		}
	}
}

// wanted reports whether the attempt is still to be run to its end.
func (c *call) wanted(job catalog.JobID, id catalog.TaskID) bool {
	j := c.state.Job(job)
	if j == nil || j.State.Terminal() || j.State == catalog.Cancelling {
		return false
	}
	t := task(j, id)
	return t != nil && (t.Attempt == id.Attempt || t.Live(id.Attempt))
}

// task returns the task with that index, whatever its attempt, or nil.
func task(j *catalog.Job, id catalog.TaskID) *catalog.Task {
	at := j.StageAt(id.Stage)
	if at < 0 || id.Index < 0 || id.Index >= len(j.Stages[at].Tasks) {
		return nil
	}
	return &j.Stages[at].Tasks[id.Index]
}

// endJobs ends cancelled jobs when their last task has stopped, frees what
// ended jobs held, and forgets the oldest when there are too many.
func (c *call) endJobs() {
	active := c.state.Active()
	for i := 0; i < len(active); i++ {
		j := active[i]
		if j.State == catalog.Cancelling && c.seen.job(j).slots == 0 {
			c.propose(&catalog.JobEnded{Job: j.ID, At: c.now, State: catalog.Cancelled})
			active = c.state.Active()
			i--
		}
	}
	var over, stopping []catalog.JobID
	for id, js := range c.seen.jobs {
		switch {
		case !c.state.Job(id).State.Terminal():
		case js.slots == 0:
			over = append(over, id)
		case !js.freed:
			stopping = append(stopping, id)
		}
	}
	slices.Sort(stopping)
	for _, id := range stopping {
		c.freeAll(c.state.Job(id))
	}
	slices.Sort(over)
	for _, id := range over {
		delete(c.seen.jobs, id)
		for _, m := range c.seen.managers {
			delete(m.drains, id)
		}
		c.act(ReleaseJob{Job: id})
	}
	if len(over) > 0 {
		c.forget()
	}
}

// freeAll frees what the tasks of an ended job have written. The job itself can't
// be released before the last task that nobody wants any more has stopped, and
// that takes as long as its author's code pleases.
func (c *call) freeAll(j *catalog.Job) {
	c.seen.job(j).freed = true
	for d, spec := range j.Graph.Datasets {
		for _, a := range c.free(j, d, 0, len(j.Stages[j.StageAt(spec.Producer)].Tasks)) {
			c.act(a)
		}
	}
}

// forget drops the oldest ended jobs beyond what history may hold.
func (c *call) forget() {
	jobs, tasks, bytes := 0, 0, int64(0)
	var drop []catalog.JobID
	all := c.state.Jobs()
	for i := len(all) - 1; i >= 0; i-- {
		j := all[i]
		if !j.State.Terminal() || c.seen.jobs[j.ID] != nil {
			continue
		}
		jobs++
		for _, st := range j.Stages {
			tasks += st.Parallelism
		}
		bytes += j.MetricsBytes()
		if jobs > c.policy.HistoryJobs || jobs > 1 && (tasks > c.policy.HistoryTasks || bytes > c.policy.HistoryBytes) {
			drop = append(drop, j.ID)
		}
	}
	for i := len(drop) - 1; i >= 0; i-- {
		c.propose(&catalog.JobForgotten{Job: drop[i]})
	}
}
