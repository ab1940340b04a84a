package pane_test

import (
	"math"
	"slices"

	"trestle/element"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// The oracle's triggers. A trigger is a thing that is made when it begins to
// watch and thrown away when it has finished, instead of a tree with bits.

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
