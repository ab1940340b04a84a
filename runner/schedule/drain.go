package schedule

import (
	"fmt"

	"trestle/raftmeta/catalog"
)

// DrainJob lets a streaming job come to its end: its sources stop, and what is
// under way is worked off. Tasks of the job that the TaskManager starts later
// know it, too. Jobs whose input is bounded come to their end without being
// told.
type DrainJob struct {
	TaskManager string
	Job         catalog.JobID
}

func (DrainJob) action() {}

func (a DrainJob) String() string { return fmt.Sprintf("drain %s on %s", a.Job, a.TaskManager) }

// drainJobs tells every TaskManager once which streaming jobs drain: a new one,
// and all of them under a new leader, as soon as they are there.
func (c *call) drainJobs() {
	for _, j := range c.state.Active() {
		if j.State != catalog.Draining || !j.Graph.Streaming {
			continue
		}
		for _, m := range c.seen.managers {
			if m.drains[j.ID] {
				continue
			}
			if m.drains == nil {
				m.drains = map[catalog.JobID]bool{}
			}
			m.drains[j.ID] = true
			c.act(DrainJob{TaskManager: m.name, Job: j.ID})
		}
	}
}
