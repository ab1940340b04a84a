package schedule

import (
	"fmt"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// Bind finds out what exactly a stage's bounded source holds. What comes of it
// is told by Seen's Bound or Unbound.
type Bind struct {
	Job   catalog.JobID
	Plan  catalog.Hash
	Stage jobgraph.StageID
}

func (Bind) action() {}

func (a Bind) String() string { return fmt.Sprintf("bind %s %s", a.Job, a.Stage) }

// unbound reports whether it is yet to be found out what the stage reads.
func unbound(j *catalog.Job, stage int) bool {
	return j.Graph.Stages[stage].Bind != "" && j.Stages[stage].Bounds == nil
}

// bindSources has the bounds of every source found out that has none. A new
// leader asks again: until the record is there, nobody has read anything.
func (c *call) bindSources() {
	for _, j := range c.state.Active() {
		if j.State == catalog.Cancelling {
			continue
		}
		for s, spec := range j.Graph.Stages {
			if spec.Bind == "" || !unbound(j, s) {
				continue
			}
			js := c.seen.job(j)
			if js.binding == nil {
				js.binding = make([]bool, len(j.Stages))
			}
			if !js.binding[s] {
				js.binding[s] = true
				c.act(Bind{Job: j.ID, Plan: j.Plan, Stage: spec.ID})
			}
		}
	}
}

// Bound says what a stage's source holds. If that was known before, the first
// word counts.
func (s *Seen) Bound(r *catalog.InputBound) { s.events = append(s.events, bound{r}) }

// Unbound says that it can't be found out what a stage's source holds, however
// often it was tried: the job fails.
func (s *Seen) Unbound(job catalog.JobID, stage jobgraph.StageID, f catalog.Failure) {
	s.events = append(s.events, unboundable{job, stage, f})
}

type bound struct{ r *catalog.InputBound }

func (e bound) decide(c *call) {
	j := c.toBind(e.r.Job, e.r.Stage)
	if j == nil {
		return
	}
	all := int64(len(e.r.Bounds))
	for _, s := range j.Stages {
		all += int64(len(s.Bounds))
	}
	if all > c.policy.BoundsBytes {
		c.refuse(j, catalog.Failure{Kind: catalog.FailureSource, At: c.now, Message: fmt.Sprintf(
			"stage %s: what this job's sources are to read takes %d bytes to say, and may take %d; read less at a time, such as fewer topics",
			e.r.Stage, all, c.policy.BoundsBytes)})
		return
	}
	c.propose(e.r)
}

type unboundable struct {
	job   catalog.JobID
	stage jobgraph.StageID
	f     catalog.Failure
}

func (e unboundable) decide(c *call) {
	j := c.toBind(e.job, e.stage)
	if j == nil {
		return
	}
	c.refuse(j, e.f)
}

// refuse ends a job of which a source can't be read.
func (c *call) refuse(j *catalog.Job, f catalog.Failure) {
	c.propose(&catalog.JobEnded{Job: j.ID, At: c.now, State: catalog.Failed, Failure: &f})
	c.stray = true
}

// toBind returns the job of a stage that still wants to know its bounds, or
// nil: the job has ended or is about to, or an earlier answer counts.
func (c *call) toBind(job catalog.JobID, stage jobgraph.StageID) *catalog.Job {
	j := c.state.Job(job)
	if j == nil || j.State.Terminal() || j.State == catalog.Cancelling {
		return nil
	}
	if at := j.StageAt(stage); at < 0 || !unbound(j, at) {
		return nil
	}
	return j
}
