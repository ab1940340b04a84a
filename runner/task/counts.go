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
	inBytes, outBytes, inElements, outElements atomic.Int64

	mu        sync.Mutex
	committed *metrics.Set // of the bundles that have committed
	underWay  *metrics.Set // of the bundle that runs, as it last told; may be nil
}

// add counts a committed bundle.
func (c *counts) add(res *bundle.Result) {
	c.inBytes.Add(res.InBytes)
	c.outBytes.Add(res.OutBytes)
	c.inElements.Add(res.InElements)
	c.outElements.Add(res.OutElements)
}

// commit adds the metrics of a committed bundle.
func (c *counts) commit(set *metrics.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed.Merge(set)
}

// attempted takes the metrics of the running bundle, nil at its end. The set
// is c's from now on.
func (c *counts) attempted(set *metrics.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underWay = set
}

// progress tells the task's counts with the metrics that were committed and
// those of the bundle under way.
func (c *counts) progress(id ID) *Progress {
	p := &Progress{
		ID:      id,
		InBytes: c.inBytes.Load(), OutBytes: c.outBytes.Load(),
		InElements: c.inElements.Load(), OutElements: c.outElements.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := new(metrics.Set)
	all.Merge(c.committed)
	if c.underWay != nil {
		all.Merge(c.underWay)
	}
	p.Metrics = all.Marshal(metricsLimit)
	return p
}
