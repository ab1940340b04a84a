package pane_test

import (
	"slices"

	"trestle/element"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// The oracle says what comes of a history by keeping everything and looking at
// all of it again and again. It shares nothing with the decider but the nouns.

// A tick is one event of a history: elements of a key, or new times.
type tick struct {
	key   string
	items []item // of key; else
	input element.Timestamp
	clock element.Timestamp
	sync  element.Timestamp
}

// arrived is an element in a window's past.
type arrived struct {
	word string
	at   element.Timestamp
	late bool // too late to have a say in its pane's timestamp
	out  bool // was in a pane
}

// history is all that ever happened in one window.
type history struct {
	key     string
	window  window.Window
	watcher watcher
	past    []arrived
	panes   []element.Pane
	wasOver bool
	closed  bool
}

// An oracle plays a history from the start.
type oracle struct {
	ws    *pipepb.WindowingStrategy
	fn    window.Fn
	now   tick
	sent  element.Timestamp // output watermark
	live  []*history
	panes []emitted
	drops int
}

// foretell has an oracle play a history.
func foretell(ws *pipepb.WindowingStrategy, fn window.Fn, ticks []tick) *oracle {
	o := &oracle{ws: ws, fn: fn, sent: element.MinTimestamp, now: tick{input: element.MinTimestamp}}
	for _, t := range ticks {
		if t.key == "" {
			before := moment{clock: o.now.clock, sync: o.now.sync}
			o.now = t
			o.passTime(before)
		} else {
			o.take(t)
		}
		if least := o.held(); least > o.sent {
			o.sent = least
		}
	}
	return o
}

func (o *oracle) over(w window.Window) bool {
	return o.now.input >= w.End
}

func (o *oracle) expiry(w window.Window) element.Timestamp {
	return min(w.End-1+element.Timestamp(o.ws.GetAllowedLateness()), element.EndOfGlobalWindow)
}

func (o *oracle) moment(h *history) moment {
	return moment{over: o.over(h.window), clock: o.now.clock, sync: o.now.sync}
}

// sort puts the histories in the order in which panes come out.
func (o *oracle) sort() {
	slices.SortFunc(o.live, func(a, b *history) int {
		if a.key != b.key {
			return int(a.key[0]) - int(b.key[0])
		}
		return a.window.Compare(b.window)
	})
}

// passTime lets windows fire and expire because of the time.
func (o *oracle) passTime(before moment) {
	o.sort()
	for _, h := range slices.Clone(o.live) {
		if o.now.input > o.expiry(h.window) {
			if !h.closed {
				o.emit(h, true)
			}
			o.live = slices.DeleteFunc(o.live, func(x *history) bool { return x == h })
			continue
		}
		if !h.closed && (o.over(h.window) && !h.wasOver || due(h.watcher, before, o.moment(h))) {
			o.ask(h)
		}
		h.wasOver = o.over(h.window)
	}
}

// ask fires a window if it is ripe.
func (o *oracle) ask(h *history) {
	if h.closed || !h.watcher.ripe(o.moment(h)) {
		return
	}
	h.watcher.fire(o.moment(h))
	h.closed = h.watcher.done()
	o.emit(h, h.closed)
}

// take adds the elements of a tick.
func (o *oracle) take(t tick) {
	var shapes []window.Window
	if o.fn.Merging != window.NoMerging {
		shapes = o.merge(t)
	}
	for _, it := range t.items {
		for _, w := range it.windows {
			o.takeOne(t.key, it, became(shapes, w))
		}
	}
}

// became is the one of some windows that holds all of w.
func became(shapes []window.Window, w window.Window) window.Window {
	for _, s := range shapes {
		if s.Start <= w.Start && s.End >= w.End {
			return s
		}
	}
	return w
}

// merge merges what overlaps until nothing does, and tells the windows that
// there are then. New windows stand among the old as histories without a
// watcher; their first element makes them, unless they are closed.
func (o *oracle) merge(t tick) (shapes []window.Window) {
	for _, it := range t.items {
		for _, w := range it.windows {
			known := func(h *history) bool { return h.key == t.key && h.window == w && !h.closed }
			if !slices.ContainsFunc(o.live, known) {
				o.live = append(o.live, &history{key: t.key, window: w})
			}
		}
	}
	for _, h := range slices.Clone(o.live) {
		group := o.reach(h, t.key)
		if len(group) > 1 {
			o.join(group)
		}
	}
	for _, h := range o.live {
		if h.key == t.key && !h.closed {
			shapes = append(shapes, h.window)
		}
	}
	o.live = slices.DeleteFunc(o.live, func(h *history) bool { return h.key == t.key && !h.closed && h.watcher == nil })
	return shapes
}

// reach are all histories of a key that h merges with, by others or directly.
func (o *oracle) reach(h *history, key string) []*history {
	if !slices.Contains(o.live, h) || h.key != key || h.closed {
		return nil
	}
	group := []*history{h}
	for i := 0; i < len(group); i++ {
		for _, g := range o.live {
			if g.key == key && !g.closed && !slices.Contains(group, g) &&
				g.window.Start < group[i].window.End && group[i].window.Start < g.window.End {
				group = append(group, g)
			}
		}
	}
	return group
}

// join makes one history of several.
func (o *oracle) join(group []*history) {
	whole := group[0].window
	for _, h := range group {
		whole = window.Window{Start: min(h.window.Start, whole.Start), End: max(h.window.End, whole.End)}
	}
	n := &history{key: group[0].key, window: whole, wasOver: o.over(whole)}
	var watchers []watcher
	asIs := false
	for _, h := range group {
		n.past = append(n.past, h.past...)
		if h.window == whole {
			n.panes = append(n.panes, h.panes...)
		}
		if h.watcher != nil {
			watchers = append(watchers, h.watcher)
			asIs = asIs || h.window == whole
		}
	}
	switch {
	case len(watchers) == 1 && asIs: // it has only swallowed new windows
		n.watcher = watchers[0]
	case len(watchers) > 0:
		n.watcher = blend(watchers, o.moment(n))
	}
	o.live = slices.DeleteFunc(o.live, func(x *history) bool { return slices.Contains(group, x) })
	o.live = append(o.live, n)
}

// takeOne adds one element to one window.
func (o *oracle) takeOne(key string, it item, w window.Window) {
	if o.now.input > o.expiry(w) {
		o.drops++
		return
	}
	var h *history
	for _, x := range o.live {
		// A closed window stands in the way of itself, not of one that was
		// made of others and looks like it.
		if x.key == key && x.window == w && (h == nil || h.closed) {
			h = x
		}
	}
	if h == nil {
		h = &history{key: key, window: w, watcher: watch(o.ws.GetTrigger(), o.fn.Merging != window.NoMerging), wasOver: o.over(w)}
		o.live = append(o.live, h)
	}
	if h.closed {
		o.drops++
		return
	}
	say := it.at
	if o.ws.GetOutputTime() == pipepb.OutputTime_END_OF_WINDOW {
		say = w.End - 1
	}
	h.past = append(h.past, arrived{word: it.word, at: it.at, late: say < o.sent || o.over(w)})
	h.watcher.see(o.moment(h))
	o.ask(h)
}

// stamp is the timestamp of the next pane, and whether an element has a say.
func (o *oracle) stamp(h *history) (element.Timestamp, bool) {
	var says []element.Timestamp
	for _, e := range h.past {
		if !e.out && !e.late {
			says = append(says, e.at)
		}
	}
	switch {
	case len(says) == 0:
		return h.window.End - 1, false
	case o.ws.GetOutputTime() == pipepb.OutputTime_EARLIEST_IN_PANE:
		return slices.Min(says), true
	case o.ws.GetOutputTime() == pipepb.OutputTime_LATEST_IN_PANE:
		return slices.Max(says), true
	}
	return h.window.End - 1, true
}

// held is the output watermark that the histories allow.
func (o *oracle) held() element.Timestamp {
	least := o.now.input
	for _, h := range o.live {
		if h.closed {
			continue
		}
		if at, ok := o.stamp(h); ok {
			least = min(least, at)
		}
	}
	return least
}

// emit makes a pane, unless it is empty and not wanted.
func (o *oracle) emit(h *history, last bool) {
	timing := element.Early
	spoken := slices.ContainsFunc(h.panes, func(p element.Pane) bool { return p.Timing != element.Early })
	switch {
	case spoken || o.sent >= h.window.End:
		timing = element.Late
	case o.over(h.window):
		timing = element.OnTime
	}
	p := element.Pane{First: len(h.panes) == 0, Last: last, Timing: timing, Index: int64(len(h.panes)), OnTimeIndex: -1}
	for _, before := range append(h.panes, p) {
		if before.Timing != element.Early {
			p.OnTimeIndex++
		}
	}
	at, _ := o.stamp(h)
	var words []string
	fresh := false
	for i := range h.past {
		e := &h.past[i]
		if !e.out || o.ws.GetAccumulationMode() == pipepb.AccumulationMode_ACCUMULATING {
			words = append(words, e.word)
		}
		fresh = fresh || !e.out
		e.out = true
	}
	if fresh || timing == element.OnTime && o.ws.GetOnTimeBehavior() == pipepb.OnTimeBehavior_FIRE_ALWAYS ||
		last && o.ws.GetClosingBehavior() == pipepb.ClosingBehavior_EMIT_ALWAYS {
		h.panes = append(h.panes, p)
		o.panes = append(o.panes, emitted{h.key, h.window, p, at, words})
	}
}
