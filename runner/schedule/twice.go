package schedule

import (
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
	st := j.Stages[stage]
	usual, ok := median(st)
	if !ok {
		return
	}
	slow := max(c.policy.SlowAfter, slowFactor*usual)
	w := &waiting{j: j, js: c.seen.job(j)}
	for i := range st.Tasks {
		t := &st.Tasks[i]
		first := catalog.TaskID{Stage: st.Stage, Index: i, Attempt: t.Attempt}
		r := c.seen.running[runKey{j.ID, first}]
		if t.Done != nil || t.Second > 0 || r == nil || r.slot < 0 {
			continue
		}
		others := slices.DeleteFunc(c.open(1), func(m *manager) bool { return m == r.manager || m.free == 0 })
		if len(others) == 0 {
			continue // whoever frees a slot asks again
		}
		if c.now.Sub(r.since) < slow {
			c.wakeAt(r.since.Add(slow))
			continue
		}
		second := first
		second.Attempt++
		c.propose(&catalog.TaskDoubled{Job: j.ID, Task: second, At: c.now, Why: fmt.Sprintf("others took %v", usual.Round(time.Millisecond))})
		start := c.placeTasks(w, []catalog.TaskID{second}, others)
		start.Tasks[0] = w.spec(c, start.TaskManager, second)
		c.act(start)
	}
}

// slowFactor is how many times longer than usual a slow task takes.
const slowFactor = 3

// median is how long the finished tasks of a stage took.
func median(st *catalog.Stage) (time.Duration, bool) {
	var took []time.Duration
	for i := range st.Tasks {
		if d := st.Tasks[i].Done; d != nil && d.Started > 0 {
			took = append(took, d.Ended.Sub(d.Started))
		}
	}
	if len(took) == 0 {
		return 0, false
	}
	slices.Sort(took)
	return took[len(took)/2], true
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
