package schedule

import (
	"math"
	"slices"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// startReady gives free slots to what waits for them, one unit at a time, each
// to the job whose turn it is.
func (c *call) startReady() {
	var queue []*waiting
	for _, j := range c.state.Active() {
		if j.State == catalog.Cancelling {
			continue
		}
		if w := c.waiting(j); w != nil {
			queue = append(queue, w)
		}
	}
	one := c.open(1)
	for len(queue) > 0 {
		free := freeSlots(one)
		if free == 0 {
			break
		}
		best := turn(queue)
		w := queue[best]
		u := w.unit
		need, at := 1, one
		if u.column < 0 {
			need = width(w.j, u.region)
			at = c.open(need)
			free = freeSlots(at)
		}
		if need > free && need > c.lasting(w.j, c.seen.totalSlots()-c.heldByStreams()) {
			// A streaming job has just got what this one was to have, too.
			c.wakeAt(c.now)
			queue = append(queue[:best], queue[best+1:]...)
			continue
		}
		if need > free {
			// Slots are kept for it until there are enough: else a region that
			// needs many would wait for ever behind those that need one.
			break
		}
		c.launch(w, u, at)
		w.js.passed = 0
		for _, other := range queue {
			if other != w {
				other.js.passed += math.Ldexp(1, other.priority()-w.priority())
			}
		}
		if !w.next(c) {
			queue = append(queue[:best], queue[best+1:]...)
		}
	}
	if len(queue) > 0 {
		c.wakeForShunned()
		return
	}
	c.startTwice()
}

// turn returns whose turn it is: the job's that has the least for its priority.
// But where there are fewer slots than jobs, who has just given its slot back
// has nothing, too, and would have the least again and again; so a job that has
// nothing goes first when others were started as often since its last turn as
// their priority is worth.
func turn(queue []*waiting) int {
	best := 0
	for i, w := range queue {
		switch b := queue[best]; {
		case w.due() != b.due():
			if w.due() {
				best = i
			}
		case w.due():
			if w.js.passed > b.js.passed {
				best = i
			}
		case w.share() < b.share():
			best = i
		}
	}
	return best
}

// A waiting is a job with something to start.
type waiting struct {
	j    *catalog.Job
	js   *jobSeen
	unit unit // the next to start
}

func (w *waiting) priority() int { return min(max(w.j.Priority, -30), 30) }

// share is what the job has, and would have with one more, for its priority.
func (w *waiting) share() float64 {
	return math.Ldexp(float64(w.js.slots+1), -w.priority())
}

func (w *waiting) due() bool { return w.js.slots == 0 && w.js.passed >= 1 }

func (c *call) waiting(j *catalog.Job) *waiting {
	w := &waiting{j: j, js: c.seen.job(j)}
	if !w.next(c) {
		return nil
	}
	return w
}

// next finds the next unit to start, in the order of regions. It is false when
// there is none.
func (w *waiting) next(c *call) bool {
	for r := range w.j.Regions {
		if w.j.Regions[r].Chosen == 0 || regionComplete(w.j, r) || !inputsComplete(w.j, r) {
			continue
		}
		if u, ok := w.ready(c, r); ok {
			w.unit = u
			return true
		}
	}
	return false
}

// ready finds a unit of the region that is neither done nor launched, and may
// start now.
func (w *waiting) ready(c *call, region int) (unit, bool) {
	if !w.j.Graph.Regions[region].Pointwise {
		u := unit{region, -1}
		return u, w.mayStart(c, u) == yes
	}
	n := width(w.j, region)
	for col := w.js.cursor[region]; col < n; col++ {
		switch w.mayStart(c, unit{region, col}) {
		case yes:
			return unit{region, col}, true
		case never:
			if col == w.js.cursor[region] {
				w.js.cursor[region]++
			}
		}
	}
	return unit{}, false
}

type answer int

const (
	yes   answer = iota
	later        // it must wait for its time
	never        // it was launched, or is done
)

// mayStart looks at one task of the unit: all of a unit are launched together
// and taken back together.
func (w *waiting) mayStart(c *call, u unit) answer {
	for _, id := range w.j.Graph.Regions[u.region].Stages {
		at := w.j.StageAt(id)
		i := max(u.column, 0)
		if i >= len(w.j.Stages[at].Tasks) {
			continue
		}
		t := &w.j.Stages[at].Tasks[i]
		switch {
		case t.Done != nil || w.js.begun(t, at, i):
			return never
		case t.NotBefore > c.now:
			c.wakeAt(t.NotBefore)
			return later
		case w.stopping(c, u):
			return later
		}
		return yes
	}
	return never
}

// stopping reports whether an earlier attempt of a task of the unit still
// runs. Two attempts of one task at once would both be at their stage's queue,
// and one would take or give back what the other has in hand.
func (w *waiting) stopping(c *call, u unit) bool {
	for _, id := range w.j.Graph.Regions[u.region].Stages {
		launched := w.js.launched[w.j.StageAt(id)]
		lo, hi := 0, len(launched) // of the latest choice, or an earlier one of more tasks
		if u.column >= 0 {
			lo, hi = min(u.column, hi), min(u.column+1, hi)
		}
		for i := lo; i < hi; i++ {
			if launched[i] == 0 {
				continue
			}
			latest := catalog.TaskID{Stage: id, Index: i, Attempt: launched[i] - 1}
			if c.seen.running[runKey{w.j.ID, latest}] != nil {
				return true
			}
			latest.Attempt-- // which the latest may have been the second of
			if launched[i] > 1 && c.seen.running[runKey{w.j.ID, latest}] != nil {
				return true
			}
		}
	}
	return false
}

// launch starts a unit on some of the TaskManagers: a column in one slot, or every column of a region in a
// slot of its own. All have their places before the first is told where the
// others are.
func (c *call) launch(w *waiting, u unit, on []*manager) {
	first, n := u.column, 1
	if u.column < 0 {
		first, n = 0, width(w.j, u.region)
	}
	starts := make([]Start, n)
	for i := range starts {
		starts[i] = c.place(w, u.region, first+i, on)
	}
	for i := range starts {
		for k, t := range starts[i].Tasks {
			starts[i].Tasks[k] = w.spec(c, starts[i].TaskManager, t.ID)
		}
		c.act(starts[i])
	}
}

// place gives a column its slot. Of its tasks it tells the ids.
func (c *call) place(w *waiting, region, col int, on []*manager) Start {
	var ids []catalog.TaskID
	for _, id := range w.j.Graph.Regions[region].Stages {
		if st := w.j.Stages[w.j.StageAt(id)]; col < len(st.Tasks) {
			ids = append(ids, catalog.TaskID{Stage: id, Index: col, Attempt: st.Tasks[col].Attempt})
		}
	}
	return c.placeTasks(w, ids, on)
}

// placeTasks gives tasks a slot together.
func (c *call) placeTasks(w *waiting, ids []catalog.TaskID, on []*manager) Start {
	m, at := pick(on)
	if _, told := c.state.TaskManager(m.name); !told {
		c.propose(&catalog.TaskManagerJoined{Name: m.name, At: c.now, Slots: len(m.slots)})
	}
	start := Start{TaskManager: m.name, Slot: at, Job: w.j.ID, Plan: w.j.Plan}
	for _, id := range ids {
		stage := w.j.StageAt(id.Stage)
		start.Tasks = append(start.Tasks, TaskSpec{ID: id})
		c.seen.occupy(m, at, w.js, id).since = c.now
		w.js.launched[stage][id.Index] = id.Attempt + 1
		if q := w.js.queue(stage, w.j.Stages[stage]); w.j.Graph.Stages[stage].Root == jobgraph.RootRestrictions && q.at == "" {
			q.at = m.name // kept where the first task is started
		}
	}
	return start
}

// spec is what a task on that TaskManager is told.
func (w *waiting) spec(c *call, manager string, id catalog.TaskID) TaskSpec {
	stage, index := w.j.StageAt(id.Stage), id.Index
	spec, st := w.j.Graph.Stages[stage], w.j.Stages[stage]
	t := TaskSpec{ID: id, Parallelism: st.Parallelism, Queue: st.Queue, Outputs: st.Outputs, Impulse: st.Bounds}
	if spec.Root == jobgraph.RootRestrictions {
		t.QueueAt = w.js.queue(stage, st).at
	}
	for _, in := range st.Inputs {
		lo, hi := 0, -1
		read := Input{Dataset: in.Dataset, Hi: w.j.Subpartitions(in.Dataset)}
		switch in.Reading {
		case catalog.ReadRange:
			read.Lo, read.Hi = in.Cuts[index], in.Cuts[index+1]
		case catalog.ReadPointwise:
			lo, hi = in.Cuts[index], in.Cuts[index+1]
		}
		t.Inputs = append(t.Inputs, w.told(c, manager, stage, read, lo, hi))
	}
	for _, id := range spec.SideInputs {
		read := Input{Dataset: id, Hi: w.j.Subpartitions(id)}
		if w.j.Graph.Streaming {
			read.Lo, read.Hi = index, index+1 // each reader has a copy
		}
		t.SideInputs = append(t.SideInputs, w.told(c, manager, stage, read, 0, -1))
	}
	if w.j.Graph.Streaming {
		t.KeyGroups = w.j.KeyGroups
	}
	return t
}

// told fills in partitions [lo, hi) of the input, and where a task on the
// TaskManager finds them. All of them if hi is -1.
func (w *waiting) told(c *call, manager string, stage int, in Input, lo, hi int) Input {
	d := w.j.DatasetAt(in.Dataset)
	if w.js.parts[d] == nil {
		w.js.parts[d] = w.locate(c, d)
	}
	p := w.js.parts[d]
	if hi < 0 {
		hi = len(p.partitions)
	}
	in.Partitions = p.partitions[lo:hi]
	if p.only != manager && !w.sameColumn(d, stage) {
		in.At = p.at[lo:hi]
	}
	return in
}

// sameColumn reports whether what the stage reads of the dataset is written
// beside it, in the same slot.
func (w *waiting) sameColumn(dataset, stage int) bool {
	r := w.j.RegionOf(stage)
	return w.j.Graph.Regions[r].Pointwise && r == w.j.RegionOf(w.j.StageAt(w.j.Graph.Datasets[dataset].Producer))
}

// locate lists the partitions of the attempts that count. Of finished tasks the
// records say where they are; of tasks that run with their readers, where they
// have been started.
func (w *waiting) locate(c *call, dataset int) *parts {
	d := w.j.Graph.Datasets[dataset]
	producer := w.j.Stages[w.j.StageAt(d.Producer)]
	output := slices.IndexFunc(producer.Outputs, func(o catalog.OutputChoice) bool { return o.Dataset == d.ID })
	p := &parts{partitions: make([]jobgraph.Partition, len(producer.Tasks)), at: make([]string, len(producer.Tasks))}
	for i := range producer.Tasks {
		t := &producer.Tasks[i]
		p.partitions[i] = jobgraph.Partition{Index: i, Attempt: t.Attempt}
		switch {
		case t.Done == nil:
			if r := c.seen.running[runKey{w.j.ID, catalog.TaskID{Stage: d.Producer, Index: i, Attempt: t.Attempt}}]; r != nil {
				p.at[i] = r.manager.name
			}
		case t.Done.Outputs[output].Durable != catalog.InBlob:
			p.at[i] = t.Done.TaskManager
		}
		if i == 0 {
			p.only = p.at[0]
		} else if p.at[i] != p.only {
			p.only = ""
		}
	}
	return p
}
