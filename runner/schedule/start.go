package schedule

import (
	"math"

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
	for len(queue) > 0 && c.seen.freeSlots() > 0 {
		best := turn(queue)
		w := queue[best]
		u := w.unit
		need := 1
		if u.column < 0 {
			need = width(w.j, u.region)
		}
		if need > c.seen.freeSlots() {
			// Slots are kept for it until there are enough: else a region that
			// needs many would wait for ever behind those that need one.
			return
		}
		c.launch(w, u)
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
		if w.j.Regions[r].Chosen == 0 || w.finished(r) || !inputsComplete(w.j, r) {
			continue
		}
		if u, ok := w.ready(c, r); ok {
			w.unit = u
			return true
		}
	}
	return false
}

func (w *waiting) finished(region int) bool {
	for _, id := range w.j.Graph.Regions[region].Stages {
		if !w.j.Stages[w.j.StageAt(id)].Complete() {
			return false
		}
	}
	return true
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
		case t.Done != nil || w.js.launched[at][i] == t.Attempt+1:
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
		}
	}
	return false
}

// launch starts a unit: a column in one slot, or every column of a region in a
// slot of its own.
func (c *call) launch(w *waiting, u unit) {
	if u.column >= 0 {
		c.launchColumn(w, u.region, u.column)
		return
	}
	for col := range width(w.j, u.region) {
		c.launchColumn(w, u.region, col)
	}
}

func (c *call) launchColumn(w *waiting, region, col int) {
	m, at := c.seen.pick()
	start := Start{TaskManager: m.name, Slot: at, Job: w.j.ID, Plan: w.j.Plan}
	for _, id := range w.j.Graph.Regions[region].Stages {
		stage := w.j.StageAt(id)
		if col >= len(w.j.Stages[stage].Tasks) {
			continue
		}
		spec := c.spec(w, stage, col)
		start.Tasks = append(start.Tasks, spec)
		c.seen.occupy(m, at, w.js, spec.ID)
		w.js.launched[stage][col] = spec.ID.Attempt + 1
	}
	c.act(start)
}

// pick returns a free slot of the TaskManager that has most of them.
func (s *Seen) pick() (*manager, int) {
	best := s.managers[0]
	for _, m := range s.managers {
		if m.free > best.free {
			best = m
		}
	}
	for i := range best.slots {
		if best.slots[i].job == nil {
			return best, i
		}
	}
	panic("invariant broken: a TaskManager counts a free slot that it doesn't have")
}

func (c *call) spec(w *waiting, stage, index int) TaskSpec {
	spec, st := w.j.Graph.Stages[stage], w.j.Stages[stage]
	t := TaskSpec{
		ID:          catalog.TaskID{Stage: st.Stage, Index: index, Attempt: st.Tasks[index].Attempt},
		Parallelism: st.Parallelism,
		Queue:       st.Queue,
		Outputs:     st.Outputs,
	}
	for _, in := range st.Inputs {
		parts, subs := w.partitions(in.Dataset)
		read := Input{Dataset: in.Dataset, Partitions: parts, Hi: subs}
		switch in.Reading {
		case catalog.ReadRange:
			read.Lo, read.Hi = in.Cuts[index], in.Cuts[index+1]
		case catalog.ReadPointwise:
			read.Partitions = parts[in.Cuts[index]:in.Cuts[index+1]]
		}
		t.Inputs = append(t.Inputs, read)
	}
	for _, id := range spec.SideInputs {
		parts, subs := w.partitions(id)
		t.SideInputs = append(t.SideInputs, Input{Dataset: id, Partitions: parts, Hi: subs})
	}
	return t
}

// partitions are those of the attempts that count, and the number of
// sub-partitions of each.
func (w *waiting) partitions(id jobgraph.DatasetID) ([]jobgraph.Partition, int) {
	d := w.j.DatasetAt(id)
	producer := w.j.Stages[w.j.StageAt(w.j.Graph.Datasets[d].Producer)]
	if w.js.parts[d] == nil {
		parts := make([]jobgraph.Partition, len(producer.Tasks))
		for i := range parts {
			parts[i] = jobgraph.Partition{Index: i, Attempt: producer.Tasks[i].Attempt}
		}
		w.js.parts[d] = parts
	}
	subs := 1
	for _, o := range producer.Outputs {
		if o.Dataset == id {
			subs = o.Subpartitions
		}
	}
	return w.js.parts[d], subs
}
