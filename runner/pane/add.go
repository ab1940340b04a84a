package pane

import (
	"math"
	"slices"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/window"
)

// Unmerged tells the windows that must be merged before the elements can be
// added: those that the elements bring and those that are open (by the rule of
// sessions, only those that can be concerned), or none if the elements bring no
// new one. It is for strategies whose windows merge by their
// SDK's rule; the answer goes to Add. What was due must have been done by
// Advance.
func (s *Strategy) Unmerged(k *Key, elems []Element) []window.Window {
	if s.Merging == window.NoMerging {
		return nil
	}
	var fresh []window.Window
	for i := range elems {
		for _, w := range elems[i].Windows {
			if at, ok := k.find(w); !ok || k.live[at].closed {
				fresh = append(fresh, w)
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if s.Merging == window.MergeOverlap {
		for _, w := range fresh {
			fresh = k.overlapping(fresh, w)
		}
	} else {
		for i := range k.live {
			if !k.live[i].closed {
				fresh = append(fresh, k.live[i].window)
			}
		}
	}
	slices.SortFunc(fresh, window.Window.Compare)
	return slices.Compact(fresh)
}

// overlapping appends the open windows that overlap w. As open windows have
// been merged, they don't overlap each other: in the order of their ends they
// are in that of their starts.
func (k *Key) overlapping(dst []window.Window, w window.Window) []window.Window {
	first, _ := k.find(window.Window{Start: math.MinInt64, End: w.Start})
	for i := first; i < len(k.live); i++ {
		l := &k.live[i]
		if l.closed {
			continue
		}
		if l.window.Start >= w.End && l.window != w {
			break
		}
		dst = append(dst, l.window)
	}
	return dst
}

// Add decides about elements that have come, in order, and appends what is to
// be done to ops. merges are what their SDK made of Unmerged, where windows
// merge by its rule, else nil. An error is the SDK's, and leaves k as it was.
func (s *Strategy) Add(k *Key, now Now, elems []Element, merges []window.Merge, ops []Op) ([]Op, error) {
	a := adding{decision: decision{s: s, k: k, now: now, ops: ops}}
	if s.Merging == window.MergeByTheirFn {
		if err := window.Check(s.Unmerged(k, elems), merges); err != nil {
			return ops, err
		}
	}
	a.advance() // what was due before these elements came
	if s.Merging == window.MergeOverlap {
		merges = window.Overlapping(s.Unmerged(k, elems))
	}
	for i := range merges {
		a.merge(&merges[i])
	}
	if len(merges) > 0 {
		a.advance() // a result may be over already
	}
	for i := range elems {
		for _, w := range elems[i].Windows {
			if into, ok := a.into[w]; ok {
				w = into
			}
			a.add(i, elems[i].Timestamp, w)
		}
	}
	for i := range merges {
		at, ok := k.find(merges[i].Into)
		if ok && !k.live[at].closed && !a.fell(elems, merges[i].Into) {
			a.fireIfReady(at) // it may have become ready by merging alone
		}
	}
	return a.ops, nil
}

// fell reports whether one of the elements fell into a window that others have
// become. By the rule of sessions, one always did.
func (a *adding) fell(elems []Element, into window.Window) bool {
	return slices.ContainsFunc(elems, func(e Element) bool {
		return slices.ContainsFunc(e.Windows, func(w window.Window) bool { return a.into[w] == into })
	})
}

// An adding is a decision about elements.
type adding struct {
	decision
	into map[window.Window]window.Window // of windows that were merged
}

// add puts an element into a window, or drops it.
func (a *adding) add(elem int, ts element.Timestamp, w window.Window) {
	if window.Passed(a.now.Input, w.Expiry(a.s.LatenessMillis)) {
		a.ops = append(a.ops, Op{Kind: DropExpired, Window: w, Element: elem})
		return
	}
	at, ok := a.k.find(w)
	if !ok {
		a.k.live = slices.Insert(a.k.live, at, live{
			window: w, ended: window.Passed(a.now.Input, w.MaxTimestamp()),
			processing: element.MaxTimestamp, synchronized: element.MaxTimestamp,
		})
	}
	l := &a.k.live[at]
	if l.closed {
		a.ops = append(a.ops, Op{Kind: DropClosed, Window: w, Element: elem})
		return
	}
	a.ops = append(a.ops, Op{Kind: Append, Window: w, Element: elem})
	l.buffered = true
	l.pending++
	a.holdFor(l, ts)
	a.s.Trigger.Add(&l.trigger, 1, a.clock(l))
	if !a.fireIfReady(at) {
		a.wait(l)
	}
}

// holdFor lets an element have its say about the timestamp of the pane. One
// that comes behind the output watermark, or after the window's end, has none.
func (d *decision) holdFor(l *live, ts element.Timestamp) {
	if d.s.Combiner == EndOfWindow {
		ts = l.window.MaxTimestamp()
	}
	if ts < d.now.Output || l.ended {
		return
	}
	if l.held {
		ts = d.s.combine(l.hold, ts)
	}
	l.held, l.hold = true, ts
}

// merge makes one window of several. Windows that the key doesn't know have
// nothing that could be merged.
func (a *adding) merge(m *window.Merge) {
	if a.into == nil {
		a.into = make(map[window.Window]window.Window)
	}
	var from []live
	for _, w := range m.From {
		a.into[w] = m.Into
		if at, ok := a.k.find(w); ok && !a.k.live[at].closed {
			from = append(from, a.k.live[at])
		}
	}
	if len(from) == 0 || len(from) == 1 && from[0].window == m.Into {
		return
	}
	result := a.mergeLive(m.Into, from)
	a.wait(&result)
	for _, l := range from[1:] {
		at, _ := a.k.find(l.window)
		a.k.live = slices.Delete(a.k.live, at, at+1)
	}
	was, _ := a.k.find(from[0].window)
	if a.k.fits(was, m.Into) { // most often: a session has grown a bit
		a.k.live[was] = result
		return
	}
	a.k.live = slices.Delete(a.k.live, was, was+1)
	at, ok := a.k.find(m.Into)
	if !ok {
		a.k.live = slices.Insert(a.k.live, at, live{})
	}
	// Else it was closed. What the others have pending opens it again.
	a.k.live[at] = result
}

// fits reports whether w could be in the place of another window.
func (k *Key) fits(at int, w window.Window) bool {
	return (at == 0 || k.live[at-1].window.Compare(w) < 0) &&
		(at+1 == len(k.live) || w.Compare(k.live[at+1].window) < 0)
}

// mergeLive merges what is remembered of windows.
func (a *adding) mergeLive(into window.Window, from []live) live {
	result := live{window: into, ended: window.Passed(a.now.Input, into.MaxTimestamp())}
	op := Op{Kind: Merge, Window: into}
	states := make([]trigger.State, len(from))
	for i := range from {
		l := &from[i]
		states[i] = l.trigger
		result.buffered = result.buffered || l.buffered
		result.pending += l.pending
		if l.held {
			a.mergeHold(&result, l.hold)
		}
		if l.window == into {
			// The panes of the others are those of windows that are no more.
			result.panes, result.onTime = l.panes, l.onTime
		} else if l.buffered {
			op.From = append(op.From, l.window)
		}
	}
	if len(op.From) > 0 {
		a.ops = append(a.ops, op)
	}
	result.trigger = a.s.Trigger.Merge(states, a.clock(&result))
	return result
}

// mergeHold adds the hold of a window to that of what it has become.
func (a *adding) mergeHold(result *live, hold element.Timestamp) {
	if a.s.Combiner == EndOfWindow {
		hold = result.window.MaxTimestamp()
	}
	if result.held {
		hold = a.s.combine(result.hold, hold)
	}
	result.held, result.hold = true, hold
}
