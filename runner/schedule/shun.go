package schedule

import (
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A TaskManager on which tasks of several stages fail, though their users' code
// raises nothing, or one whose disk is full, or that others outrun, is left alone
// for a while, longer each time. Its tasks go on, and what it holds is read.
const (
	troublesToShun = 3
	outrunsToShun  = 2
	troubleWindow  = 5 * time.Minute
	firstShunning  = 30 * time.Second
	maxShunning    = 10 * time.Minute
	shunMemory     = time.Hour // after that long in peace it begins anew
)

// A trouble is a task that failed or was slow, for which its TaskManager may be to
// blame.
type trouble struct {
	job   catalog.JobID
	stage jobgraph.StageID
	at    catalog.Instant
}

// trouble notes that a task has failed on the TaskManager.
func (c *call) trouble(m *manager, job catalog.JobID, f *catalog.Failure) {
	switch f.Kind {
	case catalog.FailureDisk:
		if !c.shun(m) {
			f.Kind = catalog.FailureRunner // there is no elsewhere: it counts as any failure
		}
	case catalog.FailureWorker, catalog.FailureRunner:
		m.troubles = c.addTrouble(m.troubles, job, f.Task.Stage)
		if len(m.troubles) >= troublesToShun && several(m.troubles) {
			m.troubles = nil
			c.shun(m)
		}
	}
}

// addTrouble adds one to those of late.
func (c *call) addTrouble(all []trouble, job catalog.JobID, stage jobgraph.StageID) []trouble {
	all = slices.DeleteFunc(all, func(t trouble) bool { return c.now.Sub(t.at) > troubleWindow })
	return append(all, trouble{job, stage, c.now})
}

// several reports whether they are of more than one stage, which else is more
// likely to be to blame itself.
func several(all []trouble) bool {
	return slices.ContainsFunc(all, func(t trouble) bool { return t.job != all[0].job || t.stage != all[0].stage })
}

// shun leaves a TaskManager alone, unless there is no other.
func (c *call) shun(m *manager) bool {
	others := slices.ContainsFunc(c.seen.managers, func(o *manager) bool {
		return o != m && !o.draining && o.shunned <= c.now && len(o.slots) > 0
	})
	if !others || m.shunned > c.now {
		return others
	}
	if c.now.Sub(m.shunned) > shunMemory {
		m.shunnings = 0
	}
	m.shunned = c.now.Add(min(firstShunning<<min(m.shunnings, 10), maxShunning))
	m.shunnings++
	return true
}

// success makes up for one trouble.
func (m *manager) success() {
	if len(m.troubles) > 0 {
		m.troubles = m.troubles[1:]
	}
}

// open are the TaskManagers on which a unit that needs that many slots may be
// started: those that are not shunned, if they ever could have as many.
func (c *call) open(need int) []*manager {
	var good, all []*manager
	slots := 0
	for _, m := range c.seen.managers {
		if m.draining {
			continue
		}
		all = append(all, m)
		if m.shunned <= c.now {
			good, slots = append(good, m), slots+len(m.slots)
		}
	}
	if slots >= need {
		return good
	}
	return all
}

// wakeForShunned asks to be called when a TaskManager is no longer shunned.
func (c *call) wakeForShunned() {
	for _, m := range c.seen.managers {
		if m.shunned > c.now && m.free > 0 && !m.draining {
			c.wakeAt(m.shunned)
		}
	}
}

func freeSlots(ms []*manager) int {
	n := 0
	for _, m := range ms {
		n += m.free
	}
	return n
}

// pick returns a free slot of the TaskManager that has most of them.
func pick(ms []*manager) (*manager, int) {
	best := ms[0]
	for _, m := range ms {
		if m.free > best.free {
			best = m
		}
	}
	return best, slices.IndexFunc(best.slots, func(s slot) bool { return s.job == nil })
}
