package schedule

import (
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

type joined struct {
	name   string
	slots  int
	runs   []RunningTask
	held   []Held
	queues []HeldQueue
}

func (e joined) decide(c *call) {
	var ran []*running
	before := c.seen.manager(e.name)
	if before != nil {
		ran = c.seen.removeManager(before)
	}
	c.loseAt(e.name)
	m := c.seen.addManager(e.name, e.slots)
	for _, r := range e.runs {
		j := c.state.Job(r.Job)
		if j == nil || r.Slot >= e.slots || r.Slot >= 0 && m.slots[r.Slot].job != nil && m.slots[r.Slot].job.id != r.Job {
			c.act(Cancel{TaskManager: e.name, Job: r.Job, Tasks: []catalog.TaskID{r.ID}})
			continue
		}
		// Also one that is not wanted any more: it has the slot until it stops.
		js := c.seen.job(j)
		c.seen.vacate(r.Job, r.ID)
		c.seen.occupy(m, max(r.Slot, -1), js, r.ID).since = c.now
		if task(j, r.ID) != nil {
			latest := &js.launched[j.StageAt(r.ID.Stage)][r.ID.Index]
			*latest = max(*latest, r.ID.Attempt+1)
		}
	}
	c.stray = true
	if c.seen.known {
		c.releaseAgain()
	}
	for _, h := range e.held {
		c.takeIn(m, h)
	}
	for _, q := range e.queues {
		c.takeInQueue(m, q)
	}
	if before != nil {
		c.makeGood(ran, catalog.Failure{Kind: catalog.FailureLost, TaskManager: e.name, At: c.now, Message: "the TaskManager has come back without it"})
	}
}

// takeInQueue notes that a queue is there after all.
func (c *call) takeInQueue(m *manager, h HeldQueue) {
	j := c.state.Job(h.Job)
	if j == nil || j.State.Terminal() {
		return
	}
	at := j.StageAt(h.Stage)
	if at < 0 || j.Stages[at].Queue != h.Generation {
		return // its job's release frees it
	}
	if q := c.seen.job(j).queue(at, j.Stages[at]); q.at == "" || q.at == m.name {
		q.at, q.lost = m.name, false
	}
}

// takeIn notes that partitions are there after all, and frees those that
// nobody will read.
func (c *call) takeIn(m *manager, h Held) {
	j := c.state.Job(h.Job)
	var useless []jobgraph.Partition
	for _, p := range h.Partitions {
		if !c.useful(j, m, h.Dataset, p) {
			useless = append(useless, p)
			continue
		}
		c.seen.job(j).gone[j.DatasetAt(h.Dataset)][p.Index] = 0
	}
	if len(useless) > 0 {
		c.act(Release{TaskManager: m.name, Job: h.Job, Dataset: h.Dataset, Partitions: useless})
	}
}

// useful reports whether a partition that is held there is one that was not
// freed: someone may read it, or read it again.
func (c *call) useful(j *catalog.Job, m *manager, id jobgraph.DatasetID, p jobgraph.Partition) bool {
	if j == nil || j.State.Terminal() || j.DatasetAt(id) < 0 {
		return false
	}
	t := task(j, catalog.TaskID{Stage: j.Dataset(id).Producer, Index: p.Index})
	switch {
	case t != nil && t.Live(p.Attempt):
		return true // its end is yet to be told
	case t == nil || t.Attempt != p.Attempt:
		return false
	}
	return t.Done.TaskManager == m.name && !c.readAll(j, id)
}

type known struct{ at catalog.Instant }

func (e known) decide(c *call) {
	if c.seen.known {
		return
	}
	for _, j := range c.state.Active() {
		c.seen.job(j) // nobody may have told of it: all of it is in doubt
	}
	c.seen.known = true
	c.stray = true // of those that have joined
	for _, m := range slices.Clone(c.state.TaskManagers()) {
		if c.seen.manager(m.Name) == nil {
			c.propose(&catalog.TaskManagerLost{Name: m.Name, At: e.at})
		}
	}
	early := c.seen.early
	c.seen.early = nil
	told := map[runKey]bool{} // for look-ups
	for _, f := range early {
		told[runKey{f.job, f.f.Task}] = true
	}
	for _, j := range slices.Clone(c.state.Active()) {
		if j.State == catalog.Cancelling {
			continue
		}
		c.releaseAllRead(j)
		seeds := append(c.orphans(j, told), c.missing(j)...)
		seeds = append(seeds, c.unqueued(j)...)
		if len(seeds) > 0 {
			// Nobody is to blame: a job isn't charged for its runner's restarts.
			c.restart(j, seeds, nil, catalog.Failure{Kind: catalog.FailureLost, At: e.at, Message: "another JobManager leads, and no TaskManager runs these tasks or holds what they wrote"})
		}
	}
	for _, f := range early {
		f.decide(c)
	}
	c.releaseAgain()
}

// releaseAllRead frees again what all have read of a job. Whether an earlier
// leader freed it is told by TaskManagers, but by nobody for an object store: a
// task that has to run again must not rely on it.
func (c *call) releaseAllRead(j *catalog.Job) {
	for _, d := range j.Graph.Datasets {
		if c.readAll(j, d.ID) {
			c.release(j, d.ID)
		}
	}
}

// releaseAgain frees what jobs that have ended not long ago may have left with
// TaskManagers, or for them in the object store: nobody knows whether all were
// told, or were there to be told.
func (c *call) releaseAgain() {
	all := c.state.Jobs()
	for i := len(all) - 1; i >= 0; i-- {
		if j := all[i]; j.State.Terminal() && c.now.Sub(j.Ended) < releaseFor {
			c.seen.job(j) // it is released once nothing of it runs
		}
	}
}

// releaseFor is how long after its end a job is released again.
const releaseFor = 10 * time.Minute

// orphans are the units with unfinished tasks that run nowhere, but for those
// whose failures are yet to be decided upon.
func (c *call) orphans(j *catalog.Job, failed map[runKey]bool) []unit {
	var units []unit
	for s, st := range j.Stages {
		for i := range st.Tasks {
			t := &st.Tasks[i]
			key := runKey{j.ID, catalog.TaskID{Stage: st.Stage, Index: i, Attempt: t.Attempt}}
			if t.Done == nil && c.seen.running[key] == nil && !failed[key] && !c.otherRuns(j, key.id) {
				units = append(units, unitOf(j, s, i))
			}
		}
	}
	return units
}
