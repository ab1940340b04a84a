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
// other is stopped, and what it wrote is freed. Who has more to read than others
// may take longer by as much.
//
// Only stages that stand alone in their region are looked at. What one task
// hands to another as it is written belongs to both, and of two columns at once
// each task of one would have to win. Tasks that pull from a queue need no
// second: who is slow pulls less. And what a stage reads must be there: part of it
// may be made again, the same as it was, while tasks that have read it go on.
func (c *call) startTwice() {
	if c.policy.SlowAfter < 0 || freeSlots(c.open(1)) == 0 {
		return
	}
	for _, j := range c.state.Active() {
		if j.State == catalog.Cancelling {
			continue
		}
		for s, st := range j.Stages {
			if 2*st.Finished >= st.Parallelism && st.Finished > 0 && !st.Complete() && standsAlone(j, s) && inputsComplete(j, j.RegionOf(s)) {
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
	t := js.usual(j, stage)
	if !t.ok {
		return
	}
	if c.now < t.look {
		c.wakeAt(t.look)
		return
	}
	t.look = 0
	free := slices.DeleteFunc(c.open(1), func(m *manager) bool { return m.free == 0 })
	for _, r := range c.runningOf(j, st.Stage) {
		if len(free) == 0 || len(free) == 1 && free[0] == r.manager {
			continue // whoever frees a slot asks again
		}
		if at := r.since.Add(max(c.policy.SlowAfter, t.slow(r.id.Index))); c.now < at {
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
	bytes    int64   // that one of them read: the median, too
	reads    []int64 // bytes that each task reads, by index
	ok       bool
	look     catalog.Instant // none is slow before
}

// slow is how long the task takes if it is slow.
func (t *took) slow(index int) time.Duration {
	usual := slowFactor * float64(t.median)
	if t.bytes > 0 {
		usual *= max(1, float64(t.reads[index])/float64(t.bytes))
	}
	return time.Duration(min(usual, float64(24*time.Hour)))
}

// usual tells how long finished tasks of the stage took. It is counted again when
// a few more have finished: what ten thousand took is not sorted for each.
func (js *jobSeen) usual(j *catalog.Job, stage int) *took {
	t, st := &js.took[stage], j.Stages[stage]
	if t.finished == 0 || len(t.reads) != len(st.Tasks) || st.Finished < t.finished || st.Finished > t.finished+t.finished/16 {
		*t = took{finished: st.Finished, reads: reads(j, st)}
		var spans []time.Duration
		var bytes []int64
		for i := range st.Tasks {
			if d := st.Tasks[i].Done; d != nil && d.Started > 0 {
				spans, bytes = append(spans, d.Ended.Sub(d.Started)), append(bytes, t.reads[i])
			}
		}
		if t.ok = len(spans) > 0; t.ok {
			slices.Sort(spans)
			slices.Sort(bytes)
			t.median, t.bytes = spans[len(spans)/2], bytes[len(bytes)/2]
		}
	}
	return t
}

// reads is about how many bytes each task of a stage has to read, side inputs not
// counted: of these all read the same.
func reads(j *catalog.Job, st *catalog.Stage) []int64 {
	all := make([]int64, len(st.Tasks))
	for _, in := range st.Inputs {
		sum := catalog.NewSketchSum(j.Subpartitions(in.Dataset))
		writers := j.Stages[j.StageAt(j.Dataset(in.Dataset).Producer)].Tasks
		whole := make([]int64, len(writers))
		for p := range writers {
			if writers[p].Done == nil {
				continue // it is made again, and its readers are to stop
			}
			for _, o := range writers[p].Done.Outputs {
				if o.Dataset == in.Dataset {
					sum.Add(o.Sketch)
					whole[p] = o.Bytes
				}
			}
		}
		by := whole
		if in.Reading == catalog.ReadRange {
			by = sum.BySub()
		}
		for i := 0; i+1 < len(in.Cuts) && i < len(all); i++ {
			all[i] += total(by[min(in.Cuts[i], len(by)):min(in.Cuts[i+1], len(by))])
		}
	}
	return all
}

// outrun notes that a second attempt has finished in a fraction of the time that
// the first has had, and asks who ran the first. One whom others outrun with tasks
// of several stages is left alone for a while: what is left of a job isn't to wait
// for it stage by stage.
func (c *call) outrun(j *catalog.Job, t *catalog.Task, second catalog.TaskID, ran *running) {
	first := second
	first.Attempt = t.Attempt
	slow := c.seen.running[runKey{j.ID, first}]
	if second.Attempt != t.Second || ran == nil || slow == nil || slow.manager == ran.manager {
		return
	}
	if c.now.Sub(slow.since) < slowFactor*c.now.Sub(ran.since) {
		return // it may be the task
	}
	m := slow.manager
	m.outruns = c.addTrouble(m.outruns, j.ID, second.Stage)
	if len(m.outruns) >= outrunsToShun && several(m.outruns) {
		m.outruns = nil
		c.shun(m)
	}
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
