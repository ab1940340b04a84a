package network

import (
	"context"
	"sync"
)

const (
	// windowDefault is what a reading may have under way, in bytes of elements.
	windowDefault = 1 << 20
	leastWindow   = 64 << 10
	mostWindow    = 64 << 20
)

// A credit says whether a reader wants more: as long as what was sent and not
// consumed is less than the window. So the window is exceeded by one block at
// most, and no block is too large.
type credit struct {
	window int64

	mu       sync.Mutex
	sent     uint64 // bytes of elements, in all streams of the reading
	consumed uint64
	more     chan struct{} // of capacity 1: look again
}

func newCredit(window int64, p progress) *credit {
	return &credit{
		window: min(max(window, leastWindow), mostWindow),
		sent:   p.Bytes, consumed: min(p.Consumed, p.Bytes),
		more: make(chan struct{}, 1),
	}
}

// add takes what the reader says.
func (c *credit) add(p progress) {
	c.mu.Lock()
	c.consumed = max(c.consumed, min(p.Consumed, c.sent))
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default: // the sender will look anyway
	}
}

func (c *credit) spend(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += uint64(n)
}

// wait returns when there is credit.
func (c *credit) wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		ok := c.sent-c.consumed < uint64(c.window)
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-c.more:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
