package node

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// lookEvery is how often a JobManager looks whether it still hears of its
	// group.
	lookEvery = time.Second
	// outOfTouch is how long it may hear of no leader until clients are told to go
	// elsewhere. A change of leader takes a few seconds, and must not end their
	// streams.
	outOfTouch = time.Minute
)

var (
	errOutOfTouch = errors.New("this JobManager has heard of no leader for too long: ask another")
	errRemoved    = errors.New("this JobManager was removed from its group: ask another")
)

// A contact knows whether this JobManager hears what its group decides. Where it
// doesn't, those who wait for something to be decided would wait for ever.
type contact struct {
	look     func() (leader, member bool)
	patience time.Duration // outOfTouch, but in tests

	mu      sync.Mutex
	without time.Duration   // that there was no leader for
	life    context.Context // ends, with the reason, when contact is lost
	end     context.CancelCauseFunc
}

func newContact(look func() (leader, member bool)) *contact {
	c := &contact{look: look, patience: outOfTouch}
	c.life, c.end = context.WithCancelCause(context.Background())
	return c
}

// run looks until ctx ends.
func (c *contact) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case now := <-tick.C:
			leader, member := c.look()
			// A process that was stopped for a while has heard nobody, and that says
			// nothing.
			c.seen(leader, member, min(now.Sub(last), 2*lookEvery))
			last = now
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			c.end(nil)
			return nil
		}
	}
}

// seen notes what was seen, so long after the last time.
func (c *contact) seen(leader, member bool, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader {
		c.without = 0
	} else {
		c.without += after
	}
	switch lost := c.life.Err() != nil; {
	case !member:
		c.end(errRemoved)
	case c.without >= c.patience:
		c.end(errOutOfTouch)
	case lost && leader:
		c.life, c.end = context.WithCancelCause(context.Background())
	}
}

// lost is why there is no contact, nil if there is. A nil contact is never lost.
func (c *contact) lost() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return context.Cause(c.life)
}

// keep gives a context that ends when contact is lost. It is to be freed.
func (c *contact) keep(ctx context.Context) (_ context.Context, free func()) {
	ctx, cancel := context.WithCancel(ctx)
	if c == nil {
		return ctx, cancel
	}
	c.mu.Lock()
	life := c.life
	c.mu.Unlock()
	unhook := context.AfterFunc(life, cancel)
	return ctx, func() { unhook(); cancel() }
}
