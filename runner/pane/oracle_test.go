package pane_test

import (
	"math"
	"slices"

	"trestle/element"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// The oracle says what comes of a history by keeping everything and looking at
// all of it again and again. It shares nothing with the decider but the nouns.
// A trigger is a thing that is made when it begins to watch and thrown away
// when it has finished, instead of a tree with bits.

// A tick is one event of a history: elements of a key, or new times.
type tick struct {
	key   string
	items []item // of key; else
	input element.Timestamp
	clock element.Timestamp
	sync  element.Timestamp
}

// moment is what a watcher may know.
type moment struct {
	over        bool // the window
	clock, sync element.Timestamp
}

// A watcher is a trigger at work.
type watcher interface {
	see(m moment)       // an element has come
	ripe(m moment) bool // may fire
	fire(m moment)
	done() bool // will never fire again
}

type (
	atEnd  struct{} // default
	atOnce struct{} // always
	noWay  struct{} // never
	once   struct{ gone bool }
	counts struct {
		once
		have, want int
	}
	waits struct {
		once
		until  *element.Timestamp
		later  func(element.Timestamp) element.Timestamp
		strict bool
	}
	end struct {
		once
		merging           bool
		early, late       watcher // nil: none
		newEarly, newLate func() watcher
		isLate            bool
	}
	all struct {
		once
		subs []watcher
	}
	either struct {
		once
		subs []watcher
	}
	chain struct {
		once
		subs []watcher
	}
	until struct {
		once
		main, until watcher
	}
	again struct {
		inner watcher
		fresh func() watcher
	}
)

func (o *once) done() bool { return o.gone }

func (atEnd) see(moment)           {}
func (atEnd) ripe(m moment) bool   { return m.over }
func (atEnd) fire(moment)          {}
func (atEnd) done() bool           { return false }
func (atOnce) see(moment)          {}
func (atOnce) ripe(moment) bool    { return true }
func (atOnce) fire(moment)         {}
func (atOnce) done() bool          { return false }
func (noWay) see(moment)           {}
func (noWay) ripe(moment) bool     { return false }
func (noWay) fire(moment)          {}
func (noWay) done() bool           { return false }
func (c *counts) see(moment)       { c.have++ }
func (c *counts) ripe(moment) bool { return !c.gone && c.have >= c.want }
func (c *counts) fire(moment)      { c.gone, c.have = true, 0 }

func (w *waits) see(m moment) {
	if w.until == nil {
		t := w.later(m.clock)
		w.until = &t
	}
}

func (w *waits) ripe(m moment) bool {
	if w.gone || w.until == nil {
		return false
	}
	if w.strict {
		return m.sync > *w.until
	}
	return m.clock >= *w.until
}
func (w *waits) fire(moment) { w.gone, w.until = true, nil }

func (e *end) see(m moment) {
	if e.early != nil && (!e.isLate || e.merging) {
		e.early.see(m)
	}
	if e.late != nil && (e.isLate || e.merging) {
		e.late.see(m)
	}
}

func (e *end) ripe(m moment) bool {
	switch {
	case e.gone:
		return false
	case e.isLate:
		return e.late.ripe(m)
	}
	return m.over || e.early != nil && e.early.ripe(m)
}

func (e *end) fire(m moment) {
	switch {
	case e.isLate:
		e.late = fired(e.late, e.newLate, m)
		if e.early != nil {
			e.early = e.newEarly()
		}
	case !m.over:
		e.early = fired(e.early, e.newEarly, m)
		if e.late != nil {
			e.late = e.newLate()
		}
	case e.late == nil:
		e.gone = true
	default:
		e.isLate = true
		e.late = e.newLate()
		if e.early != nil {
			e.early = e.newEarly()
		}
	}
}

// fired fires a watcher, and replaces it if that was the end of it.
func fired(w watcher, fresh func() watcher, m moment) watcher {
	w.fire(m)
	if w.done() {
		return fresh()
	}
	return w
}

func (a *all) see(m moment) {
	for _, s := range a.subs {
		if !s.done() {
			s.see(m)
		}
	}
}

func (a *all) ripe(m moment) bool {
	return !a.gone && !slices.ContainsFunc(a.subs, func(s watcher) bool { return !s.done() && !s.ripe(m) })
}
func (a *all) fire(m moment) { a.gone = true }

func (e *either) see(m moment) {
	for _, s := range e.subs {
		s.see(m)
	}
}

func (e *either) ripe(m moment) bool {
	return !e.gone && slices.ContainsFunc(e.subs, func(s watcher) bool { return s.ripe(m) })
}
func (e *either) fire(m moment) { e.gone = true }

func (c *chain) see(m moment) {
	if len(c.subs) > 0 {
		c.subs[0].see(m)
	}
}

func (c *chain) ripe(m moment) bool { return len(c.subs) > 0 && c.subs[0].ripe(m) }

func (c *chain) fire(m moment) {
	c.subs[0].fire(m)
	if c.subs[0].done() {
		c.subs = c.subs[1:]
	}
	c.gone = len(c.subs) == 0
}

func (u *until) see(m moment) {
	u.main.see(m)
	u.until.see(m)
}

func (u *until) ripe(m moment) bool { return !u.gone && (u.main.ripe(m) || u.until.ripe(m)) }

func (u *until) fire(m moment) {
	if u.until.ripe(m) {
		u.gone = true // nobody will ask its parts again
		return
	}
	u.main.fire(m)
	u.gone = u.main.done()
}

func (a *again) see(m moment)       { a.inner.see(m) }
func (a *again) ripe(m moment) bool { return a.inner.ripe(m) }
func (a *again) fire(m moment)      { a.inner = fired(a.inner, a.fresh, m) }
func (a *again) done() bool         { return false }

// due reports whether a time has come for which some part of a watcher waits.
func due(w watcher, before, m moment) bool {
	any := func(ws ...watcher) bool {
		return slices.ContainsFunc(ws, func(w watcher) bool { return w != nil && due(w, before, m) })
	}
	switch w := w.(type) {
	case *waits:
		then := *w
		return w.ripe(m) && !then.ripe(before)
	case *end:
		return any(w.early, w.late)
	case *again:
		return any(w.inner)
	case *either:
		return any(w.subs...)
	case *all:
		return any(w.subs...)
	case *chain:
		return len(w.subs) > 0 && any(w.subs[0])
	case *until:
		return any(w.main, w.until)
	}
	return false
}

// watch makes a watcher.
func watch(t *pipepb.Trigger, merging bool) watcher {
	sub := func(t *pipepb.Trigger) watcher { return watch(t, merging) }
	subs := func(ts []*pipepb.Trigger) (out []watcher) {
		for _, t := range ts {
			out = append(out, sub(t))
		}
		return out
	}
	switch t := t.GetTrigger().(type) {
	case *pipepb.Trigger_Always_:
		return atOnce{}
	case *pipepb.Trigger_Never_:
		return noWay{}
	case *pipepb.Trigger_ElementCount_:
		return &counts{want: int(t.ElementCount.GetElementCount())}
	case *pipepb.Trigger_AfterProcessingTime_:
		return &waits{later: func(at element.Timestamp) element.Timestamp {
			for _, tr := range t.AfterProcessingTime.GetTimestampTransforms() {
				at += element.Timestamp(tr.GetDelay().GetDelayMillis())
				if p := tr.GetAlignTo().GetPeriod(); p > 0 {
					at = element.Timestamp(math.Ceil(float64(int64(at)-tr.GetAlignTo().GetOffset())/float64(p)))*element.Timestamp(p) +
						element.Timestamp(tr.GetAlignTo().GetOffset())
				}
			}
			return at
		}}
	case *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		return &waits{strict: true, later: func(at element.Timestamp) element.Timestamp { return at }}
	case *pipepb.Trigger_AfterEndOfWindow_:
		e := &end{merging: merging}
		if early := t.AfterEndOfWindow.GetEarlyFirings(); early != nil {
			e.newEarly = func() watcher { return sub(early) }
			e.early = e.newEarly()
		}
		if late := t.AfterEndOfWindow.GetLateFirings(); late != nil {
			e.newLate = func() watcher { return sub(late) }
			e.late = e.newLate()
		}
		return e
	case *pipepb.Trigger_AfterAll_:
		return &all{subs: subs(t.AfterAll.GetSubtriggers())}
	case *pipepb.Trigger_AfterAny_:
		return &either{subs: subs(t.AfterAny.GetSubtriggers())}
	case *pipepb.Trigger_AfterEach_:
		return &chain{subs: subs(t.AfterEach.GetSubtriggers())}
	case *pipepb.Trigger_OrFinally_:
		return &until{main: sub(t.OrFinally.GetMain()), until: sub(t.OrFinally.GetFinally())}
	case *pipepb.Trigger_Repeat_:
		fresh := func() watcher { return sub(t.Repeat.GetSubtrigger()) }
		return &again{inner: fresh(), fresh: fresh}
	}
	return atEnd{}
}

// blend makes one watcher of those of windows that have merged. It knows the
// triggers that the histories use in sessions.
func blend(ws []watcher, m moment) watcher {
	pick := func(of func(watcher) watcher) watcher {
		var parts []watcher
		for _, w := range ws {
			parts = append(parts, of(w))
		}
		return blend(parts, m)
	}
	switch first := ws[0].(type) {
	case *counts:
		sum := &counts{want: first.want}
		for _, w := range ws {
			sum.have += w.(*counts).have
			sum.gone = sum.gone || w.done()
		}
		return sum
	case *waits:
		least := &waits{later: first.later, strict: first.strict, once: once{gone: true}}
		for _, w := range ws {
			if at := w.(*waits).until; at != nil && (least.until == nil || *at < *least.until) {
				least.until = at
			}
			least.gone = least.gone && w.done()
		}
		return least
	case *end:
		e := &end{merging: true, newEarly: first.newEarly, newLate: first.newLate, isLate: m.over}
		for _, w := range ws {
			e.isLate = e.isLate && w.(*end).isLate
		}
		if first.early != nil {
			if e.early = first.newEarly(); !e.isLate {
				e.early = pick(func(w watcher) watcher { return w.(*end).early })
			}
		}
		if first.late != nil {
			e.late = pick(func(w watcher) watcher { return w.(*end).late })
		}
		return e
	case *again:
		return &again{fresh: first.fresh, inner: pick(func(w watcher) watcher { return w.(*again).inner })}
	case *either:
		out := &either{}
		for i := range first.subs {
			out.subs = append(out.subs, pick(func(w watcher) watcher { return w.(*either).subs[i] }))
		}
		return out
	case *all:
		out := &all{}
		for i := range first.subs {
			out.subs = append(out.subs, pick(func(w watcher) watcher { return w.(*all).subs[i] }))
		}
		return out
	}
	return ws[0]
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
