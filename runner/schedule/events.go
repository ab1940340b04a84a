package schedule

import (
	"slices"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

type accepted struct{ r *catalog.JobAccepted }

func (e accepted) decide(c *call) {
	c.propose(e.r)
	c.seen.job(c.state.Job(e.r.Job))
}

type stopRequested struct{ r *catalog.StopRequested }

func (e stopRequested) decide(c *call) {
	j := c.state.Job(e.r.Job)
	if j == nil || j.State.Terminal() || j.State == catalog.Cancelling || e.r.Mode == catalog.StopDrain && j.State == catalog.Draining {
		return // it ended meanwhile, or was asked before
	}
	c.propose(e.r)
	c.stray = true
}

type finished struct{ r *catalog.TaskFinished }

func (e finished) decide(c *call) {
	ran := c.seen.vacate(e.r.Job, e.r.Task)
	j := c.state.Job(e.r.Job)
	if j == nil {
		return
	}
	t := task(j, e.r.Task)
	if j.State.Terminal() || t == nil || t.Attempt != e.r.Task.Attempt && !t.Live(e.r.Task.Attempt) {
		c.discard(e.r, ran)
		return
	}
	if t.Done != nil {
		return
	}
	if t.Second > 0 {
		c.stray = true // the other attempt is to stop
		c.outrun(j, t, e.r.Task, ran)
	}
	r := *e.r
	var missing jobgraph.DatasetID
	if r.Outputs, missing = inOrder(j.Stages[j.StageAt(r.Task.Stage)], e.r.Outputs); missing != "" {
		f := catalog.Failure{Kind: catalog.FailureRunner, Task: r.Task, At: r.Ended, Message: "the task finished without telling what it wrote of " + string(missing)}
		units := []unit{unitOf(j, j.StageAt(r.Task.Stage), r.Task.Index)}
		c.restart(j, units, units, f)
		return
	}
	if ran != nil {
		r.TaskManager, r.Slot = ran.manager.name, max(ran.slot, 0)
		ran.manager.success()
	}
	c.propose(&r)
	if st := j.StageAt(r.Task.Stage); j.Stages[st].Complete() && !j.State.Terminal() {
		c.seen.job(j).queue(st, j.Stages[st]).drained = true
		c.releaseRead(j, st)
	}
	c.explain(j)
}

// explain looks again at failures that were to follow from another, when a
// writer has finished after all.
func (c *call) explain(j *catalog.Job) {
	js := c.seen.job(j)
	events := js.unexplained
	js.unexplained = nil
	for _, e := range events {
		e.decide(c)
	}
}

// inOrder puts what a task wrote into the order of its stage's outputs, or
// names one that is missing.
func inOrder(st *catalog.Stage, told []catalog.Output) (outputs []catalog.Output, missing jobgraph.DatasetID) {
	for _, want := range st.Outputs {
		i := slices.IndexFunc(told, func(o catalog.Output) bool { return o.Dataset == want.Dataset })
		if i < 0 {
			return nil, want.Dataset
		}
		outputs = append(outputs, told[i])
	}
	return outputs, ""
}

// discard frees what an attempt wrote that counts for nothing.
func (c *call) discard(r *catalog.TaskFinished, ran *running) {
	name := r.TaskManager
	if ran != nil {
		name = ran.manager.name
	}
	if c.seen.manager(name) == nil {
		return
	}
	for _, o := range r.Outputs {
		c.act(Release{
			TaskManager: name, Job: r.Job, Dataset: o.Dataset,
			Partitions: []jobgraph.Partition{{Index: r.Task.Index, Attempt: r.Task.Attempt}},
		})
	}
}

// releaseRead frees what a stage that has finished was the last to read, and
// what it wrote for pipelined readers that were done before it.
func (c *call) releaseRead(j *catalog.Job, stage int) {
	stages := []jobgraph.StageID{j.Stages[stage].Stage}
	if r := j.RegionOf(stage); regionComplete(j, r) {
		stages = j.Graph.Regions[r].Stages
	}
	for _, id := range stages {
		st := j.Graph.Stages[j.StageAt(id)]
		for _, ids := range [][]jobgraph.DatasetID{st.Inputs, st.SideInputs, st.Outputs} {
			for _, id := range ids {
				if c.readAll(j, id) {
					c.release(j, id)
				}
			}
		}
	}
}

// readAll reports whether all readers of a dataset have finished, and all that
// would have to read it again if it failed: a task that has finished runs again
// when one fails that read its output as it was written.
func (c *call) readAll(j *catalog.Job, id jobgraph.DatasetID) bool {
	d := j.Dataset(id)
	for _, consumer := range d.Consumers {
		at := j.StageAt(consumer)
		if !j.Stages[at].Complete() || d.Exchange == jobgraph.Blocking && !regionComplete(j, j.RegionOf(at)) {
			return false
		}
	}
	return true
}

func regionComplete(j *catalog.Job, region int) bool {
	for _, id := range j.Graph.Regions[region].Stages {
		if !j.Stages[j.StageAt(id)].Complete() {
			return false
		}
	}
	return true
}

func (c *call) release(j *catalog.Job, id jobgraph.DatasetID) {
	js, d := c.seen.job(j), j.DatasetAt(id)
	producer := j.Stages[j.StageAt(j.Graph.Datasets[d].Producer)]
	if js.released[d] || !producer.Complete() {
		return
	}
	js.released[d] = true
	js.parts[d] = nil
	for _, a := range c.free(j, d, 0, len(producer.Tasks)) {
		c.act(a)
	}
}

// free gives the actions that free the finished partitions [lo, hi) of a
// dataset that are still there, and notes that they are gone.
func (c *call) free(j *catalog.Job, dataset, lo, hi int) []Action {
	js, d := c.seen.job(j), j.Graph.Datasets[dataset]
	tasks := j.Stages[j.StageAt(d.Producer)].Tasks
	held := map[string][]jobgraph.Partition{} // for look-ups
	for i := lo; i < hi; i++ {
		t := &tasks[i]
		if !js.available(dataset, i, t) {
			continue
		}
		js.lose(dataset, i, t.Attempt)
		if len(c.seen.managers) == 0 {
			continue // it is in an object store, and goes with its job
		}
		name := t.Done.TaskManager
		if c.seen.manager(name) == nil {
			name = c.seen.managers[0].name // it outlived its writer: anyone can free it
		}
		held[name] = append(held[name], jobgraph.Partition{Index: i, Attempt: t.Attempt})
	}
	var actions []Action
	for _, m := range c.seen.managers {
		if ps := held[m.name]; len(ps) > 0 {
			actions = append(actions, Release{TaskManager: m.name, Job: j.ID, Dataset: d.ID, Partitions: ps})
		}
	}
	return actions
}

type failed struct {
	job  catalog.JobID
	f    catalog.Failure
	lost []Lost
}

func (e failed) decide(c *call) {
	ran := c.seen.vacate(e.job, e.f.Task)
	if ran != nil {
		e.f.TaskManager = ran.manager.name
	}
	if !c.seen.known {
		// What must run again with it depends on what is still there.
		c.seen.early = append(c.seen.early, e)
		return
	}
	j := c.state.Job(e.job)
	if j == nil || !c.wanted(e.job, e.f.Task) {
		return // it was to stop, or another attempt has taken its place
	}
	if task(j, e.f.Task).Done != nil {
		return
	}
	if ran != nil {
		c.trouble(ran.manager, e.job, &e.f)
	}
	if e.f.Kind != catalog.FailurePartition && c.otherRuns(j, e.f.Task) {
		return // what it comes to, the other attempt decides
	}
	if c.follows(j, e) {
		c.seen.job(j).unexplained = append(c.seen.job(j).unexplained, e)
		return
	}
	seeds := []unit{unitOf(j, j.StageAt(e.f.Task.Stage), e.f.Task.Index)}
	for _, l := range e.lost {
		if u, ok := c.lose(j, l); ok {
			seeds = append(seeds, u)
		}
	}
	c.restart(j, seeds, seeds, e.f)
}

// follows reports whether a failure is only what follows from another, of which
// the report is on its way: what the task read as it was written was given up
// by its writer, or what it wrote by its reader. The cause is what the job's
// author must hear of, and what is counted.
func (c *call) follows(j *catalog.Job, e failed) bool {
	for _, l := range e.lost {
		d := j.DatasetAt(l.Dataset)
		if d < 0 {
			continue
		}
		writer := catalog.TaskID{Stage: j.Graph.Datasets[d].Producer, Index: l.Index, Attempt: l.Attempt}
		if c.runs(j, writer) || writer == e.f.Task && c.readersRun(j, d, l.Index) {
			return true
		}
	}
	return false
}

// runs reports whether the attempt runs, and is to. One that has ended well
// does not, though its TaskManager may be about to tell so again.
func (c *call) runs(j *catalog.Job, id catalog.TaskID) bool {
	return c.seen.running[runKey{j.ID, id}] != nil && c.wanted(j.ID, id) && task(j, id).Done == nil
}

// readersRun reports whether tasks run that read the partition as it is written.
func (c *call) readersRun(j *catalog.Job, dataset, partition int) bool {
	d := j.Graph.Datasets[dataset]
	region := j.RegionOf(j.StageAt(d.Producer))
	for _, consumer := range d.Consumers {
		at := j.StageAt(consumer)
		if j.RegionOf(at) != region {
			continue
		}
		reader, one := pointwiseReader(j, at, d.ID, partition)
		for i, t := range j.Stages[at].Tasks {
			if (!one || i == reader) && c.runs(j, catalog.TaskID{Stage: consumer, Index: i, Attempt: t.Attempt}) {
				return true
			}
		}
	}
	return false
}

// lose notes that a partition is gone and returns the unit that makes it. It
// is false for one that is none, or was made again meanwhile.
func (c *call) lose(j *catalog.Job, l Lost) (unit, bool) {
	d := j.DatasetAt(l.Dataset)
	if d < 0 {
		return unit{}, false
	}
	producer := j.Graph.Datasets[d].Producer
	t := task(j, catalog.TaskID{Stage: producer, Index: l.Index})
	if t == nil || t.Attempt != l.Attempt || t.Done == nil {
		return unit{}, false
	}
	c.seen.job(j).lose(d, l.Index, l.Attempt)
	return unitOf(j, j.StageAt(producer), l.Index), true
}

type lostManager struct {
	name string
	at   catalog.Instant
}

func (e lostManager) decide(c *call) {
	if _, there := c.state.TaskManager(e.name); there && c.seen.known {
		c.propose(&catalog.TaskManagerLost{Name: e.name, At: e.at})
	}
	m := c.seen.manager(e.name)
	if m == nil {
		return
	}
	ran := c.seen.removeManager(m)
	c.loseAt(e.name)
	c.makeGood(ran, catalog.Failure{Kind: catalog.FailureLost, TaskManager: e.name, At: e.at, Message: "the TaskManager is gone"})
}

// loseAt notes as gone what the TaskManager held and kept.
func (c *call) loseAt(name string) {
	for _, j := range c.state.Active() {
		c.seen.job(j).loseAt(j, name)
	}
}

// makeGood runs again what ran where nothing runs any more, and what made
// what is gone and needed.
func (c *call) makeGood(ran []*running, f catalog.Failure) {
	if !c.seen.known {
		return // it will be seen when all is known
	}
	for _, j := range slices.Clone(c.state.Active()) {
		if j.State == catalog.Cancelling {
			continue
		}
		var seeds []unit
		for _, r := range ran {
			if r.job == j.ID && c.wanted(r.job, r.id) && task(j, r.id).Done == nil && c.seen.running[runKey{r.job, r.id}] == nil && !c.otherRuns(j, r.id) {
				seeds = append(seeds, unitOf(j, j.StageAt(r.id.Stage), r.id.Index))
			}
		}
		blamed := append(seeds, c.missing(j)...)
		seeds = append(slices.Clone(blamed), c.unqueued(j)...)
		if len(seeds) > 0 {
			c.restart(j, seeds, blamed, f)
		}
	}
}

// unqueued returns the units of unfinished stages that have begun to take from
// a queue which is lost.
func (c *call) unqueued(j *catalog.Job) []unit {
	js := c.seen.job(j)
	var units []unit
	for s, st := range j.Stages {
		if st.Parallelism > 0 && !st.Complete() && js.queue(s, st).lost {
			units = append(units, unitOf(j, s, 0)) // all of the region follows
		}
	}
	return units
}

type draining struct{ name string }

func (e draining) decide(c *call) {
	if m := c.seen.manager(e.name); m != nil {
		m.draining = true
	}
}

// missing returns the units whose output is gone though someone still needs it.
// What is read as it is written is not looked at: a reader that runs has it, or
// tells what it lacks, and one that doesn't begins again with its writer.
func (c *call) missing(j *catalog.Job) []unit {
	js := c.seen.job(j)
	var units []unit
	for s, st := range j.Stages {
		for i := range st.Tasks {
			t := &st.Tasks[i]
			if t.Done == nil {
				continue
			}
			for _, id := range j.Graph.Stages[s].Outputs {
				if j.Dataset(id).Exchange == jobgraph.Blocking && !js.available(j.DatasetAt(id), i, t) && c.needed(j, id, i) {
					units = append(units, unitOf(j, s, i))
					break
				}
			}
		}
	}
	return units
}

// needed reports whether some task that has not finished reads the partition.
func (c *call) needed(j *catalog.Job, id jobgraph.DatasetID, partition int) bool {
	for _, consumer := range j.Dataset(id).Consumers {
		at := j.StageAt(consumer)
		if j.Stages[at].Complete() || c.seen.job(j).fed(at, j.Stages[at]) && slices.Contains(j.Graph.Stages[at].Inputs, id) {
			continue
		}
		reader, one := pointwiseReader(j, at, id, partition)
		if !one || reader >= 0 && j.Stages[at].Tasks[reader].Done == nil {
			return true
		}
	}
	return false
}
