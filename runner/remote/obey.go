package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"trestle/runner/task"
)

// pump takes what the TaskManager reports, as long as there is room for it.
func (c *Client) pump(ctx context.Context) {
	reports := c.cfg.Local.Reports()
	for {
		from := reports
		if c.full() {
			from = nil // the TaskManager's own queue fills, and its tasks wait
		}
		select {
		case r, more := <-from:
			if !more {
				reports = nil // it has stopped
				continue
			}
			c.report(r)
		case <-c.spare:
			c.mu.Lock()
			c.notify()
			c.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return false // ends are kept by slot, and nothing else is
	}
	n, bytes := c.link.out.waiting()
	return n >= maxReports || bytes >= maxReportsMB
}

// report passes a report on, if there is a session.
func (c *Client) report(r task.Report) {
	if r.Progress != nil {
		c.keepProgress(*r.Progress)
		return
	}
	b := encodeReport(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ended := over(r); ended {
		delete(c.progress, id)
		c.tracker.end(id, b)
		c.notify()
	}
	if c.link != nil {
		c.link.out.add(b)
	}
}

// keepProgress replaces what was to be told of a task.
func (c *Client) keepProgress(p task.Progress) {
	if len(p.Metrics) > maxMetrics {
		p.Metrics = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.progress[p.ID]; c.link == nil || !known && len(c.progress) >= maxProgress {
		return
	}
	c.progress[p.ID] = &p
	poke(c.link.out.changed)
}

// take does what a message says.
func (c *Client) take(l *link, m *down) error {
	if err := l.out.ack(m.Ack); err != nil {
		return err
	}
	fresh, err := l.in.fresh(m.First, m.Commands)
	if err != nil {
		return err
	}
	for _, b := range fresh {
		if err := c.obey(l, b); err != nil {
			return fmt.Errorf("a command of the JobManager at %s: %w", l.addr, err)
		}
		l.in.got.Add(1)
	}
	if len(fresh) > 0 {
		poke(l.out.changed) // there is something to acknowledge
	}
	return nil
}

// obey does one command. It is called by the reader of the current connection
// alone, which ends before there is another: no command of an earlier session
// comes after one of a later.
func (c *Client) obey(l *link, b json.RawMessage) error {
	var cmd command
	if err := json.Unmarshal(b, &cmd); err != nil {
		return err
	}
	local := c.cfg.Local
	switch {
	case cmd.Piece != nil:
		return l.lists.take(cmd.Piece)
	case cmd.Drop != nil:
		l.lists.drop(cmd.Drop)
	case cmd.Start != nil:
		return c.start(l, cmd.Start)
	case cmd.Cancel != nil:
		local.Cancel(cmd.Cancel)
	case cmd.DrainJob != "":
		local.DrainJob(cmd.DrainJob)
	case cmd.Release != nil:
		ps, err := appendPartitions(nil, cmd.Release.Partitions)
		if err != nil {
			return err
		}
		local.Release(cmd.Release.Job, cmd.Release.Dataset, ps)
	case cmd.ReleaseJob != "":
		c.mu.Lock()
		c.tracker.releaseJob(cmd.ReleaseJob)
		c.mu.Unlock()
		local.ReleaseJob(cmd.ReleaseJob)
	case cmd.Peers != nil:
		c.meetPeers(cmd.Peers)
	case cmd.MayLeave:
		c.mu.Lock()
		l.mayLeave = true
		c.notify()
		c.mu.Unlock()
	default:
		return errors.New("it says nothing")
	}
	return nil
}

func (c *Client) start(l *link, specs []spec) error {
	column := make([]task.Spec, len(specs))
	for i, s := range specs {
		var err error
		if column[i], err = decodeSpec(l.lists, s); err != nil {
			return err
		}
	}
	c.mu.Lock()
	for _, end := range c.tracker.start(column) {
		l.out.add(end)
	}
	c.mu.Unlock()
	c.cfg.Local.Start(column)
	return nil
}

// meetPeers notes where other TaskManagers are. A new leader hears of them one
// by one, so those that it doesn't know yet are where they were.
func (c *Client) meetPeers(p *peerChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range p.Gone {
		delete(c.addrs, name)
	}
	for name, addr := range p.Set {
		c.addrs[name] = addr
	}
	c.notify()
}

// Lookup gives the address at which a TaskManager serves its data. For one of
// whom nothing was heard it waits, within bounds. A TaskManager may come back at
// another address: whoever can't reach it should look again.
func (c *Client) Lookup(ctx context.Context, name string) (string, error) {
	if name == c.cfg.Local.Name() {
		return c.cfg.DataAddr, nil
	}
	late := time.NewTimer(c.cfg.LookupWait)
	defer late.Stop()
	for {
		c.mu.Lock()
		addr, known := c.addrs[name]
		changed := c.changed
		c.mu.Unlock()
		if known {
			return addr, nil
		}
		select {
		case <-changed:
		case <-late.C:
			return "", fmt.Errorf("TaskManager %q is not known", name)
		case <-ctx.Done():
			return "", fmt.Errorf("TaskManager %q is not known: %w", name, context.Cause(ctx))
		}
	}
}

// Drain tells the leader that the TaskManager wants no new tasks, and waits
// until all that run have ended and the leader knows it. What they wrote is
// still served: see AwaitIdle and Leave.
func (c *Client) Drain(ctx context.Context) error {
	c.mu.Lock()
	if !c.draining {
		c.draining = true
		if c.link != nil {
			c.link.out.add(encodeReport(task.Report{Draining: true}))
		}
	}
	c.mu.Unlock()
	return c.await(ctx, "drain", func() bool {
		if len(c.tracker.open) > 0 || c.link == nil || c.link.session == "" {
			return false
		}
		n, _ := c.link.out.waiting()
		return n == 0
	})
}

// AwaitIdle waits, after Drain, until the leader has said that nobody will miss
// what the TaskManager holds and keeps: partitions, output that is read while it
// is written, and queues.
func (c *Client) AwaitIdle(ctx context.Context) error {
	return c.await(ctx, "wait for those who need what is here", func() bool { return c.link != nil && c.link.mayLeave })
}

// Leave ends the session for good: what the TaskManager holds is gone for its
// JobManager, which hears it at once instead of waiting for the lease.
func (c *Client) Leave(ctx context.Context) error {
	c.mu.Lock()
	c.leaving = true
	if c.link != nil {
		poke(c.link.out.changed)
	}
	c.mu.Unlock()
	return c.await(ctx, "leave", func() bool { return c.left })
}

// await waits until a condition holds, which is looked at under the lock.
func (c *Client) await(ctx context.Context, what string, holds func() bool) error {
	for {
		c.mu.Lock()
		done, changed := holds(), c.changed
		c.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
}
