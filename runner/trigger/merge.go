package trigger

// Merge gives the state of a window that others have become, from theirs. Now
// is that of the new window. The trigger may be ready then, but is never
// finished unless it was in all of them.
func (t *Tree) Merge(from []State, now Now) State {
	var into State
	if t.finite {
		t.merge(&into, from, 0, now)
	}
	return into
}

func (t *Tree) merge(into *State, from []State, i int, now Now) {
	nd := &t.nodes[i]
	if allDone(from, i) && (now.Ended || !nd.ends) {
		t.finish(into, i)
		return
	}
	switch nd.kind {
	case elementCount:
		t.mergeCounts(into, from, i)
	case processing, synchronized:
		t.mergeTimes(into, from, i)
	case endOfWindow:
		t.mergeEnds(into, from, i, now)
	case afterEach:
		all := true
		for _, sub := range nd.subs {
			// What comes after one that is alive has not begun, whatever it
			// was in some of the windows. It knows what is pending, though.
			t.merge(into, from, sub, now)
			if !all {
				t.unfinish(into, sub)
			}
			all = all && into.isDone(sub)
		}
		if all {
			t.finish(into, i)
		}
	default:
		done := 0
		for _, sub := range nd.subs {
			t.merge(into, from, sub, now)
			if into.isDone(sub) {
				done++
			}
		}
		if nd.kind == afterAll && done == len(nd.subs) || (nd.kind == afterAny || nd.kind == orFinally) && done > 0 {
			t.finish(into, i)
		}
	}
}

// unfinish makes a node and all below it unfinished; they remember what they
// count.
func (t *Tree) unfinish(s *State, i int) {
	if s.done == nil {
		return
	}
	for k := i; k < t.nodes[i].end; k++ {
		s.done[k/64] &^= 1 << (k % 64)
	}
}

func allDone(from []State, i int) bool {
	for k := range from {
		if !from[k].isDone(i) {
			return false
		}
	}
	return true
}

// mergeCounts adds what is pending in all windows. A count that was reached in
// one was reached.
func (t *Tree) mergeCounts(into *State, from []State, i int) {
	var sum int64
	for k := range from {
		if from[k].isDone(i) {
			t.finish(into, i)
			return
		}
		n := t.get(&from[k], i).n
		sum += min(n, t.nodes[i].count-sum)
	}
	if sum > 0 {
		t.set(into, i, sum)
	}
}

// mergeTimes takes the earliest time of all windows. A delay that was over in
// some of them only is not over.
func (t *Tree) mergeTimes(into *State, from []State, i int) {
	for k := range from {
		until, least := t.get(&from[k], i), t.get(into, i)
		if until.set && (!least.set || until.n < least.n) {
			t.set(into, i, until.n)
		}
	}
}

// mergeEnds decides whether the end of the window is still to come: it is
// unless it was over in all windows and is over in the one that they become.
func (t *Tree) mergeEnds(into *State, from []State, i int, now Now) {
	subs := t.nodes[i].subs
	late := len(subs) > 1
	over := now.Ended
	for k := range from {
		over = over && (from[k].isDone(i) || late && t.isLate(&from[k], i))
	}
	switch {
	case over && !late:
		t.finish(into, i)
		return
	case over:
		t.set(into, i, 0)
		t.merge(into, from, subs[1], now)
		return
	}
	for _, sub := range subs {
		t.merge(into, from, sub, now)
		// Both sides repeat, and the early one may have been over.
		if into.isDone(sub) {
			t.unfinish(into, sub)
		}
	}
}
