package remote

import (
	"context"
	"errors"
	"fmt"
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

var (
	errNoLeader = errors.New("no JobManager says that it leads")
	errNotOurs  = errors.New("no JobManager leads that this TaskManager can work for")
)

// A claim is what one JobManager says of who leads.
type claim struct {
	from int // its place among those that were asked
	leadership
	err error
}

// JobManagers are the addresses of all that are known: the one that leads, if
// there is a session with it, then those that the group has told of, then those
// of the configuration, which may be out of date.
func (c *Client) JobManagers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	if c.link != nil && c.link.session != "" {
		all = append(all, c.link.addr)
	}
	for _, addr := range slices.Concat(c.told, c.cfg.JobManagers) {
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// Group is the id of the group that the TaskManager works for, "" before it has
// met one.
func (c *Client) Group() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.group
}

// doubt is why one who leads a group for a term must not be obeyed, nil if
// nothing speaks against it. The lock is held.
func (c *Client) doubt(addr, group string, term uint64) error {
	switch {
	case c.group != "" && group != c.group:
		return fmt.Errorf("the JobManager at %s is of the group %.8s, and this TaskManager has worked for the group %.8s: start it again to have it work for another", addr, group, c.group)
	case term < c.term:
		return fmt.Errorf("the JobManager at %s leads for term %d, and there was a term %d: it is behind, or the group was restored from a backup", addr, term, c.term)
	}
	return nil
}

// hear notes the JobManagers that a leader has told of. The lock is held.
func (c *Client) hear(members []string) {
	if len(members) > 0 && len(members) <= maxTold && !slices.Equal(members, c.told) {
		c.told = members
		if c.cfg.Lines != nil {
			for _, addr := range members { // from now on, not from when they are dialled
				c.cfg.Lines.expect(c.cfg.Connections.ToJobManager(addr))
			}
		}
		c.notify()
	}
}

// heed hears what a JobManager says of who leads, and doubts it.
func (c *Client) heed(addr string, l *leadership) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.doubt(addr, l.Group, l.Term)
	if err == nil && l.Leads && l.Group == c.group {
		c.hear(l.Members)
	}
	return err
}

// leader asks all JobManagers who leads, and believes the first that says so of
// itself and that nothing speaks against.
func (c *Client) leader(life context.Context) (addr string, term uint64, err error) {
	ctx, cancel := context.WithTimeout(life, askTime)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	asked := c.JobManagers()
	answers := make(chan claim, len(asked))
	for from, addr := range asked {
		wg.Go(func() {
			l, err := leaderCall.Do(ctx, c.cfg.Connections.ToJobManager(addr), &struct{}{})
			if err != nil {
				l = &leadership{}
			}
			answers <- claim{from, *l, err}
		})
	}
	var best leadership
	behind := "" // one that leads for a term that seems to be over
	none, errs := errNoLeader, make([]error, len(asked))
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
			errs[a.from] = a.err
			continue
		}
		late.Reset(lateTime)
		doubt := c.heed(asked[a.from], &a.leadership)
		switch {
		case a.Leads && doubt == nil:
			return asked[a.from], a.Term, nil
		case a.Leads:
			none, errs[a.from] = errNotOurs, doubt
			if a.Group == c.Group() {
				behind = asked[a.from]
			}
		case a.Addr != "" && doubt == nil && a.Term >= best.Term && !slices.Contains(asked, a.Addr):
			best = a.leadership // one that we were not told of
		}
	}
	if best.Addr != "" {
		return best.Addr, best.Term, nil
	}
	why := slices.Concat([]error{none}, errs)
	if behind != "" {
		why = append(why, c.restored(life, behind))
	}
	return "", 0, errors.Join(why...)
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
		all := c.JobManagers()
		for _, addr := range all {
			if sending[addr] != nil {
				continue
			}
			to := c.cfg.Connections.ToJobManager(addr)
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
