package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"trestle/internal/jobstore"
)

// sweepEvery is how often what belongs to forgotten jobs is looked for.
const sweepEvery = 10 * time.Minute

// A caretaker clears up after jobs: when one has ended its artifacts, plan
// and open files go; when one is forgotten, all of it.
type caretaker struct {
	node *Node
	// news holds jobs that were accepted and are to be watched. When it is full
	// the next sweep finds them.
	news chan string

	watching sync.WaitGroup
	watched  map[string]bool // only run's goroutine touches it
	ended    chan string
}

func newCaretaker(n *Node) *caretaker {
	return &caretaker{node: n, news: make(chan string, 256), watched: make(map[string]bool), ended: make(chan string)}
}

// accepted tells of a new job. It never waits.
func (c *caretaker) accepted(id string) {
	select {
	case c.news <- id:
	default:
	}
}

// run watches jobs until ctx ends.
func (c *caretaker) run(ctx context.Context) error {
	defer c.watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	c.sweep(ctx)
	for {
		select {
		case id := <-c.news:
			c.watch(ctx, id)
		case id := <-c.ended:
			delete(c.watched, id)
		case <-tick.C:
			c.sweep(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep watches all jobs that run, and removes what is left of forgotten ones.
func (c *caretaker) sweep(ctx context.Context) {
	known := map[string]bool{}
	for _, j := range c.node.dispatcher.Jobs() {
		known[j.ID] = true
		if !j.State.Terminal() {
			c.watch(ctx, j.ID)
		} else if !c.watched[j.ID] {
			c.clearUp(j.ID) // it ended when nobody was here to see it
		}
	}
	// A job is stored a moment before it is accepted.
	removed, err := c.node.store.Sweep(func(id string) bool { return known[id] }, time.Now().Add(-time.Hour))
	for _, id := range removed {
		c.node.artifacts.Release(id)
		err = errors.Join(err, c.node.messages.Remove(id))
	}
	if err != nil {
		c.node.log.Error("what is left of forgotten jobs can't be removed", "err", err)
	}
}

// watch waits for one job's end.
func (c *caretaker) watch(ctx context.Context, id string) {
	if c.watched[id] {
		return
	}
	statuses, err := c.node.dispatcher.Watch(ctx, id)
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
	if err := c.node.store.DropRun(id); err != nil && !errors.Is(err, jobstore.ErrNotFound) {
		c.node.log.Error("what an ended job needed is still stored", "job", id, "err", err)
	}
}
