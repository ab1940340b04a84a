package task

import (
	"slices"
	"sync"

	"trestle/element"
	"trestle/runner/jobgraph"
	"trestle/runner/watermark"
)

// A restrictionPool is what the tasks of one streaming source share that run in
// this process: who has nothing to do takes what another one has not come to, or
// a half of what it is at.
//
// A restriction moves together with what it holds back, so nobody who takes one
// may have promised more than that: all tasks of a pool say downstream what the
// least of them could say, which is all that whoever reads them hears anyway.
// The tasks of other processes are on their own.
type restrictionPool struct {
	mu      sync.Mutex
	members []*restrictions
}

// restrictionPool finds or makes the pool of a stage.
func (j *streamJob) restrictionPool(stage jobgraph.StageID) *restrictionPool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pools == nil {
		j.pools = map[jobgraph.StageID]*restrictionPool{}
	}
	p := j.pools[stage]
	if p == nil {
		p = &restrictionPool{}
		j.pools[stage] = p
	}
	return p
}

// join makes a task a member, which has a seat by now.
func (p *restrictionPool) join(r *restrictions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = append(p.members, r)
}

// leave ends what join began. What the task still has is lost with it.
func (p *restrictionPool) leave(r *restrictions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = slices.DeleteFunc(p.members, func(m *restrictions) bool { return m == r })
	p.wake(r)
}

// wake has the others look again. The lock is held.
func (p *restrictionPool) wake(by *restrictions) {
	for _, m := range p.members {
		if m != by {
			select {
			case m.s.seat.wake <- struct{}{}:
			default: // it will look anyway
			}
		}
	}
}

// take gives a task what it may begin now: its own, or if it has nothing that
// is due, and is not draining, some of another's.
func (p *restrictionPool) take(r *restrictions, now element.Timestamp, drained bool) []*parkedItem {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.waits = false
	took := r.items.takeDue(now, p.share(r))
	if len(took) == 0 && !drained {
		for _, m := range p.members {
			if !p.mayTake(r, m) {
				continue
			}
			if took = m.items.takeDue(now, max(1, min(mostItems, m.items.Len()/2))); len(took) > 0 {
				r.takeOver(m, took)
				break
			}
		}
	}
	r.busy = len(took) > 0
	if r.busy {
		if r.items.Len() > 0 {
			p.wake(r) // others may have the rest
		}
		if p.waiting(r) > 0 {
			r.feel()
		}
		return took
	}
	r.waits = !drained
	for _, m := range p.members {
		if p.mayTake(r, m) {
			m.feel()
		}
	}
	return nil
}

// takeOver has r hold what it took from m. The pool's lock is held.
func (r *restrictions) takeOver(m *restrictions, took []*parkedItem) {
	for _, x := range took {
		m.gone = append(m.gone, x.hold)
		r.s.marks.Hold(x.hold)
		// What is behind what m could say is late, with either.
		r.floor.Watermark = min(r.floor.Watermark, max(x.hold, m.floor.Watermark))
	}
	r.floor.Idle = false
}

// share is how many restrictions a task begins at once, so that others who have
// none get some. The lock is held.
func (p *restrictionPool) share(r *restrictions) int {
	waiting := p.waiting(r)
	if waiting == 0 {
		return mostItems
	}
	return max(1, min(mostItems, r.items.Len()/(1+waiting)))
}

// waiting is how many others have nothing to do. The lock is held.
func (p *restrictionPool) waiting(r *restrictions) (n int) {
	for _, m := range p.members {
		if m.waits && m != r {
			n++
		}
	}
	return n
}

// feel says that another task waits for what this one might give it.
func (r *restrictions) feel() {
	select {
	case r.hungry <- struct{}{}:
	default:
	}
}

// mayTake reports whether r may take what m has: m is at work on something else,
// and r has promised nothing that m hasn't. The lock is held.
func (p *restrictionPool) mayTake(r, m *restrictions) bool {
	return m != r && m.busy && m.floor.Watermark >= r.said
}

// stillHungry reports whether a task has nothing to do that r might give it.
func (p *restrictionPool) stillHungry(r *restrictions) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.members, func(m *restrictions) bool { return m.waits && p.mayTake(m, r) })
}

// put adds a restriction to a task's own, which others may take.
func (p *restrictionPool) put(r *restrictions, x *parkedItem, at element.Timestamp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.items.set(&x.slot, at, true)
	if r.busy {
		p.wake(r)
	}
}

// takeAll gives a task all that it has.
func (p *restrictionPool) takeAll(r *restrictions) (all []*parkedItem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slot := range r.items.items {
		all = append(all, slot.item)
	}
	r.items = wakeHeap[*parkedItem]{}
	return all
}

// empty reports whether a task has nothing.
func (p *restrictionPool) empty(r *restrictions) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return r.items.Len() == 0
}

// rest notes that a task's bundle has ended. It returns what others took from it
// and hold back now.
func (p *restrictionPool) rest(r *restrictions) []element.Timestamp {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.busy = false
	gone := r.gone
	r.gone = nil
	return gone
}

// next is when something will be due that the task may begin.
func (p *restrictionPool) next(r *restrictions) element.Timestamp {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := r.items.next()
	for _, m := range p.members {
		if r.waits && p.mayTake(r, m) {
			next = min(next, m.items.next())
		}
	}
	return next
}

// bound notes what a task could say downstream if it were alone, and returns the
// watermark that it may say.
func (p *restrictionPool) bound(r *restrictions) element.Timestamp {
	could := r.s.marks.Ready()
	if could == watermark.End && !r.s.idle() {
		could.Watermark--
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if could != r.floor {
		r.floor = could
		p.wake(r)
	}
	floors := make([]watermark.Mark, 0, len(p.members))
	for _, m := range p.members {
		floors = append(floors, m.floor)
	}
	// One that has joined late may be behind; what has been said stays.
	r.said = max(r.said, watermark.Least(floors...).Watermark)
	return r.said
}
