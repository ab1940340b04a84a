package task

import (
	"sync"
	"sync/atomic"

	"trestle/runner/bundle"
	"trestle/runner/metrics"
)

// counts are what a task has done so far. The task writes, progress reports
// read.
type counts struct {
	totals                                     *totals // of the TaskManager
	inBytes, outBytes, inElements, outElements atomic.Int64
	reached                                    atomic.Pointer[Watermarks] // nil unless it streams

	mu        sync.Mutex
	committed *metrics.Set            // of the bundles that have committed
	underWay  [mostApart]*metrics.Set // of the bundles that run, as they last told; nil: none
	reads     string                  // collections whose elements are counted in underWay
	writes    []string
}

// follow says which collections the task reads and writes.
func (c *counts) follow(p *bundle.Program) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = p.Stage.Collection
	for _, id := range p.Node.Outputs {
		c.writes = append(c.writes, p.Dataset(id).Collection)
	}
}

// add counts a committed bundle.
func (c *counts) add(res *bundle.Result) {
	c.inBytes.Add(res.InBytes)
	c.outBytes.Add(res.OutBytes)
	c.inElements.Add(res.InElements)
	c.outElements.Add(res.OutElements)
	c.totals.add(res)
}

// commit adds the metrics of a committed bundle.
func (c *counts) commit(set *metrics.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed.Merge(set)
}

// attempted takes the metrics of a running bundle, nil at its end. The set is
// c's from now on.
func (c *counts) attempted(part int, set *metrics.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underWay[part] = set
}

// reach notes watermarks. Only the task calls it.
func (c *counts) reach(w Watermarks) {
	if old := c.reached.Load(); old == nil || *old != w {
		c.reached.Store(&w)
	}
}

// progress tells the task's counts with the metrics that were committed and
// those of the bundles under way. Of these, elements are known as far as the
// worker has told; bytes count when they have ended.
func (c *counts) progress(id ID) *Progress {
	p := &Progress{
		ID:      id,
		InBytes: c.inBytes.Load(), OutBytes: c.outBytes.Load(),
		InElements: c.inElements.Load(), OutElements: c.outElements.Load(),
		Watermarks: c.reached.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := new(metrics.Set)
	all.Merge(c.committed)
	for _, set := range c.underWay {
		if set == nil {
			continue
		}
		all.Merge(set)
		n, _ := set.ElementCount(c.reads)
		p.InElements += n
		for _, w := range c.writes {
			n, _ := set.ElementCount(w)
			p.OutElements += n
		}
	}
	p.Metrics = all.Marshal(metricsLimit)
	return p
}

// Totals are what a TaskManager has done since its start, tasks that were tried
// again included.
type Totals struct {
	TasksFinished, TasksFailed                 int64
	Bundles                                    int64
	InBytes, OutBytes, InElements, OutElements int64
}

// totals are counted while tasks run.
type totals struct {
	finished, failed, bundles                  atomic.Int64
	inBytes, outBytes, inElements, outElements atomic.Int64
}

func (t *totals) add(res *bundle.Result) {
	t.bundles.Add(1)
	t.inBytes.Add(res.InBytes)
	t.outBytes.Add(res.OutBytes)
	t.inElements.Add(res.InElements)
	t.outElements.Add(res.OutElements)
}

// Totals tells what was done since the start.
func (m *TaskManager) Totals() Totals {
	t := &m.totals
	return Totals{
		TasksFinished: t.finished.Load(), TasksFailed: t.failed.Load(), Bundles: t.bundles.Load(),
		InBytes: t.inBytes.Load(), OutBytes: t.outBytes.Load(), InElements: t.inElements.Load(), OutElements: t.outElements.Load(),
	}
}
