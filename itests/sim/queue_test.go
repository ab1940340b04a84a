package sim

import (
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
)

type queueKey schedule.HeldQueue

// A queue holds the elements of one generation of a restrictions stage: the
// model of package task's. What a task has taken comes back when a later
// attempt of it enters.
type queue struct {
	opened bool
	items  []uint64 // as they come out of the stage
	logs   map[int]*pulls
}

// pulls is what one attempt has taken.
type pulls struct {
	by    *attempt
	taken []uint64
	busy  bool // others wait for what it may give back, as long as it lives
}

func newQueue() *queue { return &queue{logs: map[int]*pulls{}} }

// keeper finds the TaskManager that keeps the attempt's queue, and the queue;
// nil if it doesn't answer or has none of that name.
func (a *attempt) keeper() (m *taskManager, q *queue) {
	m = a.m.c.manager(a.QueueAt)
	if !m.awake() || !a.m.c.net.both(a.m.name, m.name) {
		return nil, nil
	}
	return m, m.queues[queueKey{a.job, a.ID.Stage, a.Queue}]
}

// enter begins to take from the queue.
func (a *attempt) enter(until time.Duration) {
	m, q := a.keeper()
	if q == nil {
		if a.m.w.Now >= until && m == nil || a.m.w.Now >= until-unreachable+unborn {
			a.fail(catalog.FailureLost, nil)
			return
		}
		a.after(200*time.Millisecond, func() { a.enter(until) })
		return
	}
	if !q.opened {
		a.open(m, q, 0, nil)
		return
	}
	if old := q.logs[a.ID.Index]; old != nil {
		q.items = append(q.items, old.taken...)
	}
	a.log = &pulls{by: a}
	q.logs[a.ID.Index] = a.log
	a.pull(a.m.w.Now + unreachable)
}

// open reads input i of the queue and those after it; whoever is first has all.
func (a *attempt) open(m *taskManager, q *queue, i int, items []uint64) {
	if i < len(a.Inputs) {
		in := a.Inputs[i]
		if in.At == nil {
			in.At = make([]string, len(in.Partitions))
			for p := range in.At {
				in.At[p] = a.m.name
			}
		}
		a.fetch(m, in, a.m.w.Now+unreachable, func(parts []*part) {
			before := a.got
			a.got = items
			for _, p := range parts {
				for _, sub := range p.subs {
					a.take(in.Dataset, sub)
				}
			}
			items, a.got = a.got, before
			a.after(10*time.Millisecond, func() { a.open(m, q, i+1, items) })
		})
		return
	}
	if !q.opened {
		q.opened, q.items = true, append(q.items, items...)
	}
	a.enter(a.m.w.Now + unreachable)
}

// pull takes some, works on it and comes again.
func (a *attempt) pull(until time.Duration) {
	m, q := a.keeper()
	switch {
	case m == nil && a.m.w.Now < until:
		a.after(200*time.Millisecond, func() { a.pull(until) })
		return
	case q == nil || q.logs[a.ID.Index] != a.log:
		a.fail(catalog.FailureLost, nil) // it is lost, or another attempt has begun
		return
	}
	a.log.busy = false
	n := min(len(q.items), 1+a.m.w.Rand.IntN(3))
	if n == 0 {
		for _, index := range entered(q) {
			if l := q.logs[index]; l.busy && !l.by.over && l.by.m.alive && l.by.m.life == l.by.life {
				a.after(150*time.Millisecond, func() { a.pull(a.m.w.Now + unreachable) })
				return
			}
		}
		a.work()
		return
	}
	taken := q.items[len(q.items)-n:]
	q.items = q.items[: len(q.items)-n : len(q.items)-n]
	a.log.taken = append(a.log.taken, taken...)
	a.log.busy = true
	a.got = append(a.got, taken...)
	a.after(a.m.w.Between(10*time.Millisecond, 300*time.Millisecond), func() { a.pull(a.m.w.Now + unreachable) })
}

// entered are the indexes of the tasks that have entered, in order.
func entered(q *queue) []int {
	var all []int
	for i := 0; len(all) < len(q.logs); i++ {
		if q.logs[i] != nil {
			all = append(all, i)
		}
	}
	return all
}
