package trigger

import (
	"math"

	"trestle/element"
)

// Add notes that n elements have come.
func (t *Tree) Add(s *State, n int64, now Now) {
	if len(t.slotted) > 0 {
		t.add(s, 0, n, now)
	}
}

func (t *Tree) add(s *State, i int, n int64, now Now) {
	nd := &t.nodes[i]
	switch nd.kind {
	case elementCount:
		// A count stops at what is needed, so that it can't overflow.
		have := t.get(s, i).n
		t.set(s, i, have+min(n, nd.count-min(have, nd.count)))
	case processing, synchronized:
		if !t.get(s, i).set {
			t.set(s, i, int64(nd.target(now.Processing)))
		}
	case endOfWindow:
		t.addToEnd(s, i, n, now)
	case afterEach:
		for _, sub := range nd.subs {
			// Where windows merge, one that has finished may come to life again
			// and must then know what is pending.
			if t.merging || !s.isDone(sub) {
				t.add(s, sub, n, now)
			}
			if !t.merging && !s.isDone(sub) {
				return
			}
		}
	default:
		for _, sub := range nd.subs {
			if !s.isDone(sub) {
				t.add(s, sub, n, now)
			}
		}
	}
}

// addToEnd is add for a trigger with early or late firings.
func (t *Tree) addToEnd(s *State, i int, n int64, now Now) {
	subs := t.nodes[i].subs
	if len(subs) == 0 {
		return
	}
	late := t.get(s, i).set
	if t.merging || !late {
		t.add(s, subs[0], n, now)
	}
	if len(subs) > 1 && (t.merging || late) {
		t.add(s, subs[1], n, now)
	}
}

// target is when a delay that begins at now is over.
func (n *node) target(now element.Timestamp) element.Timestamp {
	for _, tr := range n.transform {
		add := tr.delay
		if tr.period > 0 {
			add = (tr.offset - int64(now)%tr.period) % tr.period
			if add < 0 {
				add += tr.period
			}
		}
		if add > math.MaxInt64-max(int64(now), 0) {
			return math.MaxInt64
		}
		now += element.Timestamp(add)
	}
	return now
}

// Ready reports whether the pane should be emitted.
func (t *Tree) Ready(s State, now Now) bool { return t.ready(&s, 0, now) }

func (t *Tree) ready(s *State, i int, now Now) bool {
	nd := &t.nodes[i]
	if s.isDone(i) {
		return false
	}
	switch nd.kind {
	case byDefault:
		return now.Ended
	case always:
		return true
	case endOfWindow:
		switch {
		case !t.isLate(s, i):
			return now.Ended || len(nd.subs) > 0 && t.ready(s, nd.subs[0], now)
		default:
			return t.ready(s, nd.subs[1], now)
		}
	case elementCount:
		return t.get(s, i).n >= nd.count
	case processing:
		until := t.get(s, i)
		return until.set && int64(now.Processing) >= until.n
	case synchronized:
		// Strictly after: what came in the same moment belongs together.
		until := t.get(s, i)
		return until.set && int64(now.Synchronized) > until.n
	case afterAll:
		for _, sub := range nd.subs {
			if !s.isDone(sub) && !t.ready(s, sub, now) {
				return false
			}
		}
		return true
	case afterEach:
		for _, sub := range nd.subs {
			if !s.isDone(sub) {
				return t.ready(s, sub, now)
			}
		}
		return false
	case afterAny, orFinally, repeat:
		for _, sub := range nd.subs {
			if t.ready(s, sub, now) {
				return true
			}
		}
	}
	return false
}

// isLate reports whether a trigger with late firings has fired at the end.
func (t *Tree) isLate(s *State, i int) bool {
	return len(t.nodes[i].subs) > 1 && t.get(s, i).set
}

// Fire notes that the pane was emitted. The trigger must be Ready.
func (t *Tree) Fire(s *State, now Now) {
	if t.finite {
		t.fire(s, 0, now)
	}
}

func (t *Tree) fire(s *State, i int, now Now) {
	nd := &t.nodes[i]
	if s.isDone(i) {
		return
	}
	switch nd.kind {
	case elementCount, processing, synchronized:
		t.finish(s, i)
	case endOfWindow:
		t.fireEnd(s, i, now)
	case afterAll:
		for _, sub := range nd.subs {
			t.fire(s, sub, now)
		}
		t.finish(s, i)
	case afterAny:
		for _, sub := range nd.subs {
			if t.ready(s, sub, now) {
				t.fire(s, sub, now)
			}
		}
		t.finish(s, i)
	case afterEach:
		t.fireEach(s, i, now)
	case orFinally:
		main, until := nd.subs[0], nd.subs[1]
		if t.ready(s, until, now) {
			t.finish(s, until) // merged with others, it has ended
			t.finish(s, i)
			return
		}
		// The until trigger forgets nothing: it counts across panes.
		if t.fire(s, main, now); s.isDone(main) {
			t.finish(s, i)
		}
	case repeat:
		t.fireAgain(s, nd.subs[0], now)
	}
}

// finish notes that a node is done, and that it needs to remember no more.
func (t *Tree) finish(s *State, i int) {
	t.clear(s, i)
	t.setDone(s, i)
}

// fireAgain fires a node that begins anew when it has finished.
func (t *Tree) fireAgain(s *State, i int, now Now) {
	t.fire(s, i, now)
	if s.isDone(i) {
		t.reset(s, i)
	}
}

// fireEach fires the first sub that hasn't finished.
func (t *Tree) fireEach(s *State, i int, now Now) {
	subs := t.nodes[i].subs
	fired := false
	for _, sub := range subs {
		if s.isDone(sub) || fired {
			t.clear(s, sub) // what it counted was in the pane
			continue
		}
		t.fire(s, sub, now)
		fired = true
	}
	if s.isDone(subs[len(subs)-1]) {
		t.finish(s, i)
	}
}

// fireEnd fires a trigger of the end of a window.
func (t *Tree) fireEnd(s *State, i int, now Now) {
	subs := t.nodes[i].subs
	switch {
	case t.isLate(s, i):
		t.reset(s, subs[0])
		t.fireAgain(s, subs[1], now)
	case !now.Ended:
		t.fireAgain(s, subs[0], now)
		if len(subs) > 1 {
			t.reset(s, subs[1])
		}
	case len(subs) > 1: // from here on, late firings
		t.reset(s, i)
		t.set(s, i, 0)
	default:
		t.finish(s, i)
	}
}

// Finished reports whether the trigger will never fire again.
func (t *Tree) Finished(s State) bool { return s.isDone(0) }

// noWake says that no wake is wanted.
const noWake = element.MaxTimestamp

// Wake tells the least processing time and the least synchronized processing
// time, later than now, at which the trigger should be asked again; +inf where
// no time alone makes a difference. It may be asked earlier at any time.
func (t *Tree) Wake(s State, now Now) (processingAt, synchronizedAt element.Timestamp) {
	processingAt, synchronizedAt = noWake, noWake
	if !t.timed || s.slots == nil {
		return processingAt, synchronizedAt
	}
	for _, i := range t.slotted {
		until := t.get(&s, i)
		if s.isDone(i) || !until.set {
			continue
		}
		at := element.Timestamp(until.n)
		switch t.nodes[i].kind {
		case processing:
			if at > now.Processing {
				processingAt = min(processingAt, at)
			}
		case synchronized:
			if at >= now.Synchronized && at < noWake {
				synchronizedAt = min(synchronizedAt, at+1)
			}
		}
	}
	return processingAt, synchronizedAt
}
