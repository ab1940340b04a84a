package remote

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// askTime is how long JobManagers may take to say who leads; lateTime is how
	// long they may after the first of them.
	askTime  = 2 * time.Second
	lateTime = 250 * time.Millisecond
	// askEvery is how often they are asked though nothing is amiss: there may be
	// new ones.
	askEvery = 5 * time.Second
	// maxTold bounds the JobManagers that one hears of.
	maxTold = 64
)

var errNoLeader = errors.New("no JobManager says that it leads")

// A claim is what one JobManager says of who leads.
type claim struct {
	from string
	leadership
	err error
}

// jobManagers are the addresses of all that are known: those of the
// configuration, and those that the group has told of.
func (c *Client) jobManagers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.cfg.JobManagers)
	for _, addr := range c.told {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// learn notes the JobManagers that a leader has told of.
func (c *Client) learn(members []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(members) > 0 && len(members) <= maxTold && !slices.Equal(members, c.told) {
		c.told = members
		c.notify()
	}
}

// leader asks all JobManagers who leads, and believes the first that says so of
// itself for a term that is not over.
func (c *Client) leader(ctx context.Context) (addr string, term uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	asked := c.jobManagers()
	answers := make(chan claim, len(asked))
	for _, addr := range asked {
		wg.Go(func() {
			l, err := leaderCall.Do(ctx, c.cfg.Connections.To(addr), &struct{}{})
			if err != nil {
				l = &leadership{}
			}
			answers <- claim{addr, *l, err}
		})
	}
	var best leadership
	errs := []error{errNoLeader}
	late := time.NewTimer(askTime)
	defer late.Stop()
	for left := len(asked); left > 0; left-- {
		var a claim
		select {
		case a = <-answers:
		case <-late.C: // those that are paused must not keep us from asking again
			left = 0
			continue
		}
		if a.err != nil {
			errs = append(errs, a.err)
			continue
		}
		late.Reset(lateTime)
		switch {
		case a.Leads && a.Term >= c.highest():
			c.learn(a.Members)
			return a.from, a.Term, nil
		case a.Addr != "" && a.Term >= max(best.Term, c.highest()) && !slices.Contains(asked, a.Addr):
			best = a.leadership // one that we were not told of
		}
	}
	if best.Addr != "" {
		return best.Addr, best.Term, nil
	}
	return "", 0, errors.Join(errs...)
}

// highest is the highest term that was heard of.
func (c *Client) highest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// survey hears of new JobManagers, until ctx ends.
func (c *Client) survey(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _, _ = c.leader(ctx) // whether there is one now is meet's concern
		case <-ctx.Done():
			return
		}
	}
}

// sendLines keeps all JobManagers up to date with log lines, until ctx ends.
func (c *Client) sendLines(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	sending := map[string]context.CancelFunc{}
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		all := c.jobManagers()
		for _, addr := range all {
			if sending[addr] != nil {
				continue
			}
			to := c.cfg.Connections.To(addr)
			c.cfg.Lines.expect(to)
			own, stop := context.WithCancel(ctx)
			sending[addr] = stop
			wg.Go(func() {
				c.cfg.Lines.send(own, to)
				c.cfg.Lines.forget(to)
			})
		}
		for addr, stop := range sending {
			if !slices.Contains(all, addr) {
				stop()
				delete(sending, addr)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, stop := range sending {
				stop()
			}
			return
		}
	}
}
