package task

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/side"
	"trestle/runner/watermark"
	"trestle/runner/window"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// unprefixed is a key without the length before it, as state requests have it.
func unprefixed(key string) string {
	n, used := binary.Uvarint([]byte(key))
	if used > 0 && int(n) == len(key)-used {
		return key[used:]
	}
	return key
}

// A liveSide is a side input that changes while it is read. Of each window it
// has what the newest panes brought.
type liveSide struct {
	s       *stream
	how     bundle.SideWindows
	w       *coders.Windowed
	first   int // source of the inlet
	marks   *watermark.Tracker
	windows map[string]*sideWindow // by encoding
	changed bool                   // since blocked elements were last looked at
	version uint64                 // counts changes of what is read

	// oldest are the windows by the time at which nobody can ask for them any
	// more. Windows of an SDK's own kind are kept: what looks at them isn't known.
	oldest wakeHeap[*sideWindow]
	// mapper is set for windows of an SDK's own kind, and wanted are main windows
	// that it is to be asked about.
	mapper *windowMapper
	wanted []window.Window
}

// A sideWindow is what a window holds: a group for each key, or one for all.
type sideWindow struct {
	code   string
	slot   wakeSlot[*sideWindow]
	order  []*sideGroup
	groups map[string]*sideGroup

	mu    sync.Mutex                 // guards views: requests may come side by side
	views map[side.Access]*side.View // those that are made
}

// A sideGroup is the newest pane of a group.
type sideGroup struct {
	index int64
	elems []byte
	count int
}

// openSides begins to read the side inputs.
func (s *stream) openSides(ctx context.Context) error {
	keys := make([]bundle.SideKey, 0, len(s.r.prog.SideInput))
	for k := range s.r.prog.SideInput {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b bundle.SideKey) int {
		if a.Transform != b.Transform {
			return compareStrings(a.Transform, b.Transform)
		}
		return compareStrings(a.Tag, b.Tag)
	})
	bySource := map[string]*liveSide{}
	for _, k := range keys {
		spec := s.r.prog.SideInput[k]
		id := fmt.Sprint(spec.Collection, spec.Datasets)
		if l := bySource[id]; l != nil { // a stage reads a dataset once
			s.sides[k] = l
			continue
		}
		l := &liveSide{
			s: s, how: s.r.prog.Stream.Sides[k], w: s.r.prog.Feed[spec.Collection],
			first: len(s.bySource), windows: map[string]*sideWindow{}, changed: true,
		}
		if l.how.Map != nil {
			l.mapper = &windowMapper{
				br: l.how.Map.Runner(s.br, s.r.acquire), aside: l.how.Map, from: s.r.prog.Input, to: l.w,
				known: map[window.Window]window.Window{},
			}
		}
		inputs, err := s.r.sideInputs(spec.Datasets)
		if err != nil {
			return err
		}
		inputs = channels(inputs)
		for _, in := range inputs {
			rd, err := s.r.openInput(ctx, in)
			if err != nil {
				return err
			}
			s.in.read(rd)
			s.bySource = append(s.bySource, l)
			l.w = s.r.prog.Feed[s.r.prog.Dataset(in.Dataset).Collection]
		}
		l.marks = watermark.NewTracker(len(inputs))
		s.sides[k], bySource[id] = l, l
	}
	return nil
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (s *stream) closeSides() {
	for _, l := range s.sides {
		for _, w := range l.windows {
			w.forget()
		}
	}
}

func (w *sideWindow) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.views {
		v.Close()
	}
	clear(w.views)
}

func (l *liveSide) mark(source int, m watermark.Mark) {
	if l.marks.Advance(source-l.first, m) {
		l.changed = true
	}
}

// add takes elements that have come.
func (l *liveSide) add(block []byte) error {
	l.changed = true
	var v coders.Value
	for len(block) > 0 {
		var err error
		if block, err = l.w.Next(block, &v); err != nil {
			return err
		}
		p, _, err := coders.DecodePane(v.Pane)
		if err != nil {
			return err
		}
		rest := v.Windows
		for range v.NumWindows {
			var one []byte
			if one, rest, err = l.w.CutWindow(rest); err != nil {
				return err
			}
			if err := l.put(one, &v, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// put adds an element to a window. A newer pane takes the place of the older.
func (l *liveSide) put(code []byte, v *coders.Value, p element.Pane) error {
	w := l.windows[string(code)]
	if w == nil {
		win, err := decodeWindow(l.w, code)
		if err != nil {
			return err
		}
		gone := l.gone(win)
		if window.Passed(l.s.told.Watermark, gone) {
			return nil
		}
		w = &sideWindow{code: string(code), groups: map[string]*sideGroup{}}
		w.slot.item = w
		l.windows[w.code] = w
		l.oldest.set(&w.slot, window.Passing(gone), l.mapper == nil)
	}
	g := w.groups[string(v.Key())]
	if g == nil {
		g = &sideGroup{}
		w.groups[string(v.Key())] = g
		w.order = append(w.order, g)
	}
	if p.Timing != element.Unknown && p.Index > g.index {
		*g = sideGroup{index: p.Index}
	}
	g.elems = coders.AppendHeader(g.elems, v.Timestamp(), 1, code, v.Pane)
	g.elems = append(g.elems, v.Elem...)
	g.count++
	l.version++
	w.forget()
	return nil
}

// gone is the output watermark after which no element can look at a window any
// more: those that may are in windows that end no later, and live as long as
// their lateness allows.
func (l *liveSide) gone(w window.Window) element.Timestamp {
	if l.mapper != nil || l.how.Fn.Kind == window.GlobalKind {
		return element.MaxTimestamp
	}
	return w.Expiry(max(l.how.LatenessMillis, l.s.r.prog.Stream.LatenessMillis))
}

// freeSides forgets what nobody can ask for any more.
func (s *stream) freeSides() {
	for _, l := range s.sides {
		for {
			slot := l.oldest.due(s.told.Watermark)
			if slot == nil {
				break
			}
			l.oldest.set(slot, 0, false)
			slot.item.forget()
			delete(l.windows, slot.item.code)
		}
	}
}

// mapWindows asks which windows of side inputs main windows look at, where only
// an SDK knows.
func (s *stream) mapWindows(ctx context.Context) error {
	for _, l := range s.sides {
		for _, main := range l.wanted {
			if _, err := l.mapper.of(ctx, main); err != nil {
				return err
			}
			l.changed = true
		}
		l.wanted = l.wanted[:0]
	}
	return nil
}

// sidesChanged reports whether a side input has changed since it was asked.
func (s *stream) sidesChanged() bool {
	changed := false
	for _, l := range s.sides {
		changed = changed || l.changed
	}
	for _, l := range s.sides {
		l.changed = false
	}
	return changed
}

// ready reports whether all side inputs are ready for an element's windows.
func (s *stream) ready(v *coders.Value) (bool, error) {
	rest := v.Windows
	for range v.NumWindows {
		var one []byte
		var err error
		if one, rest, err = s.r.prog.Input.CutWindow(rest); err != nil {
			return false, err
		}
		w, err := decodeWindow(s.r.prog.Input, one)
		if err != nil {
			return false, err
		}
		for _, l := range s.sides {
			if !l.readyFor(w) {
				return false, nil
			}
		}
	}
	return true, nil
}

// readyFor reports whether the window that a main window looks at can be read.
func (l *liveSide) readyFor(main window.Window) bool {
	if l.marks.Input() >= element.MaxTimestamp {
		return true
	}
	var at window.Window
	if l.mapper != nil {
		mapped, known := l.mapper.known[main]
		if !known {
			l.wanted = append(l.wanted, main)
			return false
		}
		at = mapped
	}
	switch l.how.Fn.Kind {
	case window.GlobalKind:
		at = window.Global
	case window.FixedKind, window.SlidingKind:
		all := l.how.Fn.Assign(nil, main.MaxTimestamp())
		at = all[len(all)-1] // the earliest, as SDKs choose it
	case window.SessionsKind:
		at = main
	}
	if window.Passed(l.marks.Input(), at.MaxTimestamp()) {
		return true
	}
	if l.how.Whole {
		return false
	}
	return l.windows[string(encodeWindow(nil, l.w, at))] != nil
}

// readSide answers a read of a side input.
func (s *stream) readSide(ctx context.Context, k bundle.SideKey, key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	l := s.sides[k]
	if l == nil {
		return nil, nil, fmt.Errorf("unknown side input %q of transform %q", k.Tag, k.Transform)
	}
	w := l.windows[string(sideWindowOf(key))]
	if w == nil {
		return nil, nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	access := side.Access(s.r.prog.SideInput[k].Access)
	if w.views[access] == nil {
		opt := side.Options{Budget: s.r.m.cfg.Budget, Dir: s.r.m.cfg.SpillDir}
		v, err := side.Build(ctx, &groupsSource{groups: w.order}, l.w, access, opt)
		if err != nil {
			return nil, nil, err
		}
		if w.views == nil {
			w.views = map[side.Access]*side.View{}
		}
		w.views[access] = v
	}
	return w.views[access].Read(key, token)
}

// sideWindowOf is the window that a state key names.
func sideWindowOf(key *fnpb.StateKey) []byte {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_IterableSideInput_:
		return k.IterableSideInput.GetWindow()
	case *fnpb.StateKey_MultimapSideInput_:
		return k.MultimapSideInput.GetWindow()
	case *fnpb.StateKey_MultimapKeysSideInput_:
		return k.MultimapKeysSideInput.GetWindow()
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		return k.MultimapKeysValuesSideInput.GetWindow()
	}
	return nil
}

// groupsSource gives groups to be made a view of.
type groupsSource struct{ groups []*sideGroup }

// Next gives the next group; see side.Source.
func (g *groupsSource) Next(context.Context) (elems []byte, count int, err error) {
	if len(g.groups) == 0 {
		return nil, 0, io.EOF
	}
	x := g.groups[0]
	g.groups = g.groups[1:]
	return x.elems, x.count, nil
}
