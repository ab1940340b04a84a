package node

import (
	"context"
	"fmt"
	"time"

	"trestle/shuffle/blob"
)

const (
	// sweepStoreEvery is how often a leader looks through the object store of
	// shuffle. TaskManagers clear up after jobs; what is left is of jobs that ended
	// while none was there.
	sweepStoreEvery = time.Hour
	// youngShuffle is how old the last object of a job that isn't known must be.
	// That is far more than a job may be older in the store than in the log, and
	// than the clocks of the two may differ.
	youngShuffle = time.Hour
)

// sweepStore clears up in the object store of shuffle whenever this process
// begins to lead, and now and then while it does, until ctx ends.
func (c *caretaker) sweepStore(ctx context.Context) {
	tick := time.NewTicker(sweepStoreEvery)
	defer tick.Stop()
	for {
		leads, changed := c.node.lead.now()
		if leads {
			if err := c.sweepStoreOnce(ctx); err != nil && ctx.Err() == nil {
				c.node.log.Warn("what ended jobs have left in the shuffle store can't be removed now", "err", err)
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweepStoreOnce removes what belongs to no job of this group that runs. A
// leader that has lost its office without knowing does no harm: the jobs of its
// successor are younger than what it looks for.
func (c *caretaker) sweepStoreOnce(ctx context.Context) error {
	group := c.node.raft.Group()
	if group == "" {
		return fmt.Errorf("the group of JobManager %s isn't founded yet", c.node.name())
	}
	before := time.Now().Add(-youngShuffle)
	if err := c.node.lead.Sync(ctx); err != nil {
		return err
	}
	var live []string
	for _, j := range c.node.board.Jobs() {
		if !j.State.Terminal() {
			live = append(live, j.ID)
		}
	}
	store, err := openBucket(ctx, c.node.cfg.ShuffleStore)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // what it was asked to delete is deleted
	swept, err := blob.Sweep(ctx, store, group, live, before)
	if swept > 0 {
		c.node.log.Info("removed from the shuffle store what ended jobs had left", "jobs", swept)
	}
	return err
}
