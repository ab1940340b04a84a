package sim

import (
	"fmt"
	"slices"
	"time"
)

// unkind lets something go wrong every now and then.
func (c *cluster) unkind(until time.Duration) {
	if c.w.Now >= until {
		return
	}
	c.healed = until
	c.w.After(c.w.Between(300*time.Millisecond, 4*time.Second), func() { c.unkind(until) })
	if c.kind.quiet || c.w.Chance(0.4) {
		c.troubleJobManagers()
		return
	}
	c.troubleTaskManagers()
}

// heal ends all trouble but what ends by itself.
func (c *cluster) heal() {
	c.trace("the world heals")
	c.net.drop, c.net.twin, c.failing = 0, 0, 0
	for _, n := range c.raft {
		if !n.alive {
			n.begin()
		}
	}
	for _, m := range c.managers {
		m.slow = 1
		if m.draining && m.alive {
			m.kill() // it leaves, and another takes its place
		}
		if !m.alive {
			c.check.gaveUp(m.name)
			m.begin(true)
		}
	}
}

func (c *cluster) leader() *raftNode {
	for _, n := range c.raft {
		if n.leads != nil {
			return n
		}
	}
	return c.raft[c.w.Rand.IntN(len(c.raft))]
}

func (c *cluster) troubleJobManagers() {
	n := c.leader()
	if c.w.Chance(0.3) {
		n = c.raft[c.w.Rand.IntN(len(c.raft))]
	}
	long := c.w.Between(200*time.Millisecond, 8*time.Second)
	switch c.w.Rand.IntN(4) {
	case 0, 1:
		if !n.alive {
			return
		}
		c.trace("%s is killed for %v", n.name, long)
		n.kill()
		life := n.life
		c.w.After(long, func() {
			if !n.alive && n.life == life {
				c.trace("%s begins again", n.name)
				n.begin()
			}
		})
	case 2:
		if c.kind.quiet {
			long = min(long, managerLease/2) // else it takes TaskManagers to be lost
		}
		c.trace("%s stops for %v", n.name, long)
		n.freeze(long)
	case 3:
		c.cutJobManagers(n, long)
	}
}

// cutJobManagers cuts one off from the others, in one direction or both.
func (c *cluster) cutJobManagers(n *raftNode, long time.Duration) {
	how := c.w.Rand.IntN(3)
	c.trace("%s is cut off for %v (%d)", n.name, long, how)
	for _, o := range c.raft {
		if how != 1 {
			c.net.sever(n.name, o.name, long)
		}
		if how != 2 {
			c.net.sever(o.name, n.name, long)
		}
	}
	if c.kind.quiet || c.w.Chance(0.5) {
		return
	}
	for _, m := range c.managers { // alone in the world
		c.net.sever(n.name, m.name, long)
		c.net.sever(m.name, n.name, long)
	}
}

func (c *cluster) troubleTaskManagers() {
	m := c.managers[c.w.Rand.IntN(len(c.managers))]
	long := c.w.Between(200*time.Millisecond, 8*time.Second)
	if i := slices.IndexFunc(c.managers, func(m *taskManager) bool { return len(m.queues) > 0 }); i >= 0 && c.w.Chance(0.3) {
		m = c.managers[i] // more hangs on it than on others
	}
	if !m.alive {
		return
	}
	switch c.w.Rand.IntN(7) {
	case 0:
		c.killManager(m, long)
	case 1:
		c.trace("%s stops for %v", m.name, long)
		m.freeze(long)
	case 2:
		o := c.managers[c.w.Rand.IntN(len(c.managers))]
		c.trace("%s and %s can't talk for %v", m.name, o.name, long)
		c.net.sever(m.name, o.name, long)
		if c.w.Chance(0.5) {
			c.net.sever(o.name, m.name, long)
		}
	case 3:
		c.trace("%s can't talk to JobManagers for %v", m.name, long)
		for _, n := range c.raft {
			c.net.sever(m.name, n.name, long)
			if c.w.Chance(0.5) {
				c.net.sever(n.name, m.name, long)
			}
		}
	case 4:
		m.slow = 10
		c.w.After(long, func() { m.slow = 1 })
	case 5:
		if c.kind.loss {
			c.losePartition()
		}
	case 6:
		if c.kind.drain {
			c.trace("%s drains", m.name)
			m.drain()
			life := m.life
			c.w.After(2*long, func() {
				if m.alive && m.life == life && c.w.Now < c.healed {
					c.killManager(m, long)
				}
			})
		}
	}
}

func (c *cluster) killManager(m *taskManager, long time.Duration) {
	m.kill()
	c.check.gaveUp(m.name)
	life, disk := m.life, c.w.Chance(0.8)
	c.w.After(long, func() {
		if !m.alive && m.life == life {
			c.trace("%s begins again", m.name)
			c.check.gaveUp(m.name)
			m.begin(disk)
		}
	})
}

// losePartition takes away one that is finished.
func (c *cluster) losePartition() {
	for _, i := range c.w.Rand.Perm(len(c.managers)) {
		m := c.managers[i]
		keys := m.heldKeys()
		if len(keys) == 0 {
			continue
		}
		k := keys[c.w.Rand.IntN(len(keys))]
		c.trace("%s loses %v", m.name, k)
		c.check.reportedLost(k)
		delete(m.held, k)
		return
	}
}

// finished reports whether all jobs have ended, everywhere.
func (c *cluster) finished() bool {
	if len(c.check.truth.Jobs()) < len(c.order) {
		return false
	}
	for _, j := range c.order {
		if !j.accepted || !c.check.truth.Job(j.id).State.Terminal() {
			return false
		}
	}
	for _, n := range c.raft {
		if n.applied != len(c.check.entries)-1 || n.applied != len(n.log)-1 {
			return false
		}
	}
	return true
}

func plural(n int, what string) string { return fmt.Sprintf("%d %s", n, what) }
