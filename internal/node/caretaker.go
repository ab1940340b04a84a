package node

import (
	"context"
	"sync"
	"time"
)

const (
	// sweepEvery is how often what belongs to forgotten jobs is looked for.
	sweepEvery = 10 * time.Minute
	// tidyAfter is how soon after a job's end its secrets leave the disk.
	tidyAfter = 2 * time.Second
)

// A caretaker clears up after jobs: when one has ended its artifacts, plan,
// options and open files go; when one is forgotten, all of it.
type caretaker struct {
	node *Node
	// news holds jobs that were accepted and are to be watched. When it is full
	// the next sweep finds them.
	news chan string
	// lacking holds something when there may be a job whose files are not all here.
	lacking chan struct{}

	began    time.Time
	young    time.Duration // blobs that came so lately may be a job's that others are about to accept
	watching sync.WaitGroup
	watched  map[string]bool // only run's goroutine touches it
	ended    chan string
}

func newCaretaker(n *Node) *caretaker {
	young := 10 * time.Minute
	if n.cfg.Role == Embedded {
		young = 0 // submitting is held while there are such
	}
	return &caretaker{node: n, news: make(chan string, 256), lacking: make(chan struct{}, 1), watched: make(map[string]bool), ended: make(chan string), began: time.Now(), young: young}
}

// accepted tells of a new job, whichever JobManager took it. It never waits.
func (c *caretaker) accepted(id string) {
	select {
	case c.news <- id:
	default:
	}
	select {
	case c.lacking <- struct{}{}:
	default:
	}
}

// run watches jobs until ctx ends.
func (c *caretaker) run(ctx context.Context) error {
	defer c.tidyUp(false) // after what has ended lately
	defer c.watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	tidy := time.NewTimer(tidyAfter)
	defer tidy.Stop()
	known, ok := c.sweep(ctx)
	for !ok {
		if ctx.Err() != nil {
			return nil
		}
		known, ok = c.sweep(ctx)
	}
	if c.node.replicator != nil {
		c.watching.Go(func() { c.complete(ctx) })
	}
	if c.node.cfg.ShuffleStore != "" {
		c.watching.Go(func() { c.sweepStore(ctx) })
	}
	// Jobs that were prepared and never run end with their process.
	c.node.artifacts.Keep(func(job string, last time.Time) bool { return known[job] || last.After(c.began) })
	for {
		select {
		case id := <-c.news:
			c.watch(ctx, id)
		case id := <-c.ended:
			delete(c.watched, id)
			tidy.Reset(tidyAfter)
		case <-tidy.C:
			c.tidyUp(c.node.lead.Sync(ctx) == nil)
		case <-tick.C:
			c.sweep(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep watches all jobs that run, and removes what is left of forgotten ones.
// It returns the jobs that are known. While the board doesn't surely show all
// there is, nothing can be taken for forgotten, and it does nothing: a process
// that is cut off, or was removed from its group, stops to know what is whose.
func (c *caretaker) sweep(ctx context.Context) (known map[string]bool, ok bool) {
	if c.node.lead.Sync(ctx) != nil {
		return nil, false
	}
	known = map[string]bool{}
	for _, j := range c.node.board.Jobs() {
		known[j.ID] = true
		if !j.State.Terminal() {
			c.watch(ctx, j.ID)
		} else if !c.watched[j.ID] {
			c.clearUp(j.ID) // it ended when nobody was here to see it
		}
	}
	if err := c.node.messages.Keep(func(job string) bool { return known[job] }); err != nil {
		c.node.log.Error("messages of forgotten jobs can't be removed", "err", err)
	}
	c.tidyUp(true)
	return known, true
}

// tidyUp removes what only running jobs need of those that have ended, options
// with secrets among it: what has ended stays so, however old the news are. If
// the board shows all there is, the pipelines of forgotten jobs go, too. What
// all JobManagers share is left to the one that leads.
func (c *caretaker) tidyUp(all bool) {
	if c.node.cfg.BlobStore != "" && c.node.lead.leading() == nil {
		return
	}
	c.node.jobs.submitting.Lock()
	defer c.node.jobs.submitting.Unlock()
	keep, ended := map[string]bool{}, map[string]bool{}
	for _, s := range c.node.board.Jobs() {
		j, err := c.node.board.Job(s.ID)
		if err != nil {
			continue // forgotten a moment ago
		}
		keep[j.Pipeline] = true
		if j.State.Terminal() {
			ended[j.Plan] = true
		} else {
			keep[j.Plan] = true
		}
	}
	wanted := func(hash string, put time.Time) bool {
		if keep[hash] || ended[hash] {
			return keep[hash]
		}
		return !all || time.Since(put) < c.young
	}
	if err := c.node.blobs.Sweep(context.Background(), wanted); err != nil {
		c.node.log.Error("what ended jobs needed can't be removed", "err", err)
	}
}

// watch waits for one job's end.
func (c *caretaker) watch(ctx context.Context, id string) {
	if c.watched[id] {
		return
	}
	statuses, err := c.node.board.Watch(ctx, id)
	if err != nil {
		return // forgotten already, or we are stopping
	}
	c.watched[id] = true
	c.watching.Go(func() {
		for s := range statuses {
			if s.State.Terminal() {
				c.clearUp(id)
			}
		}
		select {
		case c.ended <- id:
		case <-ctx.Done():
		}
	})
}

// clearUp frees what only a running job needs. It may be done again.
func (c *caretaker) clearUp(id string) {
	c.node.artifacts.Release(id)
	c.node.messages.Finish(id)
}
