package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// startTwice gives slots that nobody else wants to second attempts of tasks
// that take much longer than others of their stage did, on another
// TaskManager: it may be that theirs is slow. The first to finish counts; the
// other is stopped, and what it wrote is freed.
//
// Only stages that stand alone in their region are looked at. What one task
// hands to another as it is written belongs to both, and of two columns at once
// each task of one would have to win. Tasks that pull from a queue need no
// second: who is slow pulls less.
func (c *call) startTwice() {
	if c.policy.SlowAfter < 0 || freeSlots(c.open(1)) == 0 {
		return
	}
	for _, j := range c.state.Active() {
		if j.State == catalog.Cancelling {
			continue
		}
		for s, st := range j.Stages {
			if 2*st.Finished >= st.Parallelism && st.Finished > 0 && !st.Complete() && standsAlone(j, s) {
				c.doubleSlow(j, s)
			}
		}
	}
}

func standsAlone(j *catalog.Job, stage int) bool {
	r := j.Graph.Regions[j.RegionOf(stage)]
	return len(r.Stages) == 1 && r.Pointwise && j.Graph.Stages[stage].Root != jobgraph.RootRestrictions
}

// doubleSlow starts second attempts of a stage's slow tasks.
func (c *call) doubleSlow(j *catalog.Job, stage int) {
	st, js := j.Stages[stage], c.seen.job(j)
	t := js.usual(stage, st)
	if !t.ok {
		return
	}
	if c.now < t.look {
		c.wakeAt(t.look)
		return
	}
	t.look = 0
	slow := max(c.policy.SlowAfter, slowFactor*t.median)
	free := slices.DeleteFunc(c.open(1), func(m *manager) bool { return m.free == 0 })
	for _, r := range c.runningOf(j, st.Stage) {
		if len(free) == 0 || len(free) == 1 && free[0] == r.manager {
			continue // whoever frees a slot asks again
		}
		if at := r.since.Add(slow); c.now < at {
			if t.look == 0 || at < t.look {
				t.look = at
			}
			continue
		}
		second := r.id
		second.Attempt++
		c.propose(&catalog.TaskDoubled{Job: j.ID, Task: second, At: c.now, Why: fmt.Sprintf("others took %v", t.median.Round(time.Millisecond))})
		w := &waiting{j: j, js: js}
		others := slices.DeleteFunc(slices.Clone(free), func(m *manager) bool { return m == r.manager })
		start := c.placeTasks(w, []catalog.TaskID{second}, others)
		free = slices.DeleteFunc(free, func(m *manager) bool { return m.free == 0 })
		start.Tasks[0] = w.spec(c, start.TaskManager, second)
		c.act(start)
	}
	if t.look > 0 {
		c.wakeAt(t.look)
	}
}

// runningOf are the stage's tasks that run, each alone.
func (c *call) runningOf(j *catalog.Job, stage jobgraph.StageID) (all []*running) {
	for _, m := range c.seen.managers {
		for i := range m.slots {
			for _, r := range m.slots[i].tasks {
				if r.job != j.ID || r.id.Stage != stage || !c.wanted(r.job, r.id) {
					continue
				}
				if t := task(j, r.id); t.Done == nil && t.Second == 0 {
					all = append(all, r)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *running) int { return cmp.Compare(a.id.Index, b.id.Index) })
	return all
}

// slowFactor is how many times longer than usual a slow task takes.
const slowFactor = 3

// A took is how long the tasks of a stage took when that many had finished.
type took struct {
	finished int
	median   time.Duration
	ok       bool
	look     catalog.Instant // none is slow before
}

// usual tells how long finished tasks of the stage took. It is counted again when
// a few more have finished: what ten thousand took is not sorted for each.
func (js *jobSeen) usual(stage int, st *catalog.Stage) *took {
	t := &js.took[stage]
	if t.finished == 0 || st.Finished < t.finished || st.Finished > t.finished+t.finished/16 {
		*t = took{finished: st.Finished}
		t.median, t.ok = median(st)
	}
	return t
}

// median is how long the finished tasks of a stage took.
func median(st *catalog.Stage) (time.Duration, bool) {
	var all []time.Duration
	for i := range st.Tasks {
		if d := st.Tasks[i].Done; d != nil && d.Started > 0 {
			all = append(all, d.Ended.Sub(d.Started))
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[len(all)/2], true
}

// otherRuns reports whether another attempt of the task runs that may yet
// finish it.
func (c *call) otherRuns(j *catalog.Job, id catalog.TaskID) bool {
	t := task(j, id)
	for _, attempt := range []uint32{t.Attempt, t.Second} {
		other := id
		other.Attempt = attempt
		if other != id && t.Live(attempt) && c.seen.running[runKey{j.ID, other}] != nil {
			return true
		}
	}
	return false
}
