package task

import (
	"context"
	"encoding/binary"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/pane"
	"trestle/runner/state"
	"trestle/runner/window"
)

// grouping is the root that groups by key and window, as package pane decides.
type grouping struct {
	s     *stream
	panes *pane.Strategy
	w     *coders.Windowed // of what comes
	keys  paged[*groupKey]
	ops   []pane.Op
	one   [1][]byte // the value of the element at hand
	blind bool      // see keyFor

	merger *windowMerger // nil: windows don't merge, or by the rule of sessions

	event, processing, synchronized wakeHeap[*groupKey]
}

// A groupKey is one key's panes, and their elements.
type groupKey struct {
	state.Entry
	panes  pane.Key
	values []values          // of its windows that have some, in order
	bytes  int64             // of values
	hold   element.Timestamp // +inf: none
	due    bool              // will be told of a time before what it holds back for

	event, processing, synchronized wakeSlot[*groupKey]
}

// values are encoded one after another.
type values struct {
	window window.Window
	bytes  []byte
	count  int
}

// find is where the values of a window are, or would be.
func (k *groupKey) find(w window.Window) (int, bool) {
	return slices.BinarySearchFunc(k.values, w, func(v values, w window.Window) int { return v.window.Compare(w) })
}

// into is where the values of a window go, until the next one comes or goes.
func (k *groupKey) into(w window.Window) *values {
	i, ok := k.find(w)
	if !ok {
		k.values = slices.Insert(k.values, i, values{window: w})
	}
	return &k.values[i]
}

// take gives the values of a window that is no more; none if it has none.
func (k *groupKey) take(w window.Window) (v values) {
	if i, ok := k.find(w); ok {
		v = k.values[i]
		k.values = slices.Delete(k.values, i, i+1)
	}
	return v
}

func newGrouping(s *stream) *grouping {
	g := &grouping{s: s, panes: s.r.prog.Stream.Panes}
	g.blind = g.panes.Blind()
	g.keys = newPaged(s, state.Pager[*groupKey](groupPager{g}), window.Passing(window.Global.MaxTimestamp()))
	for _, in := range s.r.spec.Inputs {
		g.w = s.r.prog.Feed[s.r.prog.Dataset(in.Dataset).Collection]
	}
	if g.w != nil {
		g.merger = newWindowMerger(s.r, s.br, g.w)
	}
	return g
}

func (g *grouping) now() pane.Now {
	t := g.s.job.time()
	return pane.Now{Input: g.s.marks.Input(), Output: g.s.marks.Output(), Processing: t, Synchronized: t}
}

// key finds or makes what is kept of a key.
func (g *grouping) key(key []byte) *groupKey {
	k := g.keys.get(key)
	if k == nil {
		k = newGroupKey()
		g.keys.add(string(key), k)
	}
	return k
}

// keyFor is what must be known of a key that an element of these windows comes
// for: where nothing is decided before they end, what memory has of it is
// enough, and what is on disk is left there.
func (g *grouping) keyFor(key []byte, wins []window.Window, input element.Timestamp) *groupKey {
	if !g.blind || slices.ContainsFunc(wins, func(w window.Window) bool { return window.Passed(input, w.MaxTimestamp()) }) {
		return g.key(key)
	}
	k := g.keys.part(key)
	switch {
	case k == nil:
		k = newGroupKey()
		g.keys.addPart(string(key), k)
	case k.event.place > 0 && k.event.at <= input:
		k = g.keys.whole(k) // it is told of the end of another window now
	}
	return k
}

func (g *grouping) add(ctx context.Context, block []byte, _ int) error {
	if g.merger != nil {
		return g.addMerging(ctx, block)
	}
	now := g.now()
	var v coders.Value
	elems := make([]pane.Element, 1)
	for len(block) > 0 {
		var err error
		if block, err = g.w.Next(block, &v); err != nil {
			return err
		}
		elems[0] = pane.Element{Timestamp: v.Timestamp(), Windows: elems[0].Windows[:0]}
		if elems[0].Windows, err = decodeWindows(g.w, elems[0].Windows, &v); err != nil {
			return err
		}
		k := g.keyFor(v.Key(), elems[0].Windows, now.Input)
		if g.ops, err = g.panes.Add(&k.panes, now, elems, nil, g.ops[:0]); err != nil {
			return err
		}
		g.one[0] = v.KVValue()
		if err := g.do(k, g.one[:]); err != nil {
			return err
		}
	}
	return nil
}

func newGroupKey() *groupKey {
	k := &groupKey{hold: element.MaxTimestamp}
	k.event.item, k.processing.item, k.synchronized.item = k, k, k
	return k
}

// do carries out what was decided about a key. came are the values of the
// elements that have come.
func (g *grouping) do(k *groupKey, came [][]byte) error {
	for i := range g.ops {
		op := &g.ops[i]
		switch op.Kind {
		case pane.Append:
			b := k.into(op.Window)
			b.bytes = append(b.bytes, came[op.Element]...)
			b.count++
			k.bytes += int64(len(came[op.Element]))
		case pane.Merge:
			for _, w := range op.From {
				if from := k.take(w); from.count > 0 {
					into := k.into(op.Window)
					into.bytes = append(into.bytes, from.bytes...)
					into.count += from.count
				}
			}
		case pane.Emit:
			if err := g.emit(k, op); err != nil {
				return err
			}
		case pane.DropExpired:
			g.s.lost.late++
		case pane.DropClosed:
			g.s.lost.closed++
		case pane.Clear, pane.Expire:
			k.bytes -= int64(len(k.take(op.Window).bytes))
		}
	}
	g.settle(k)
	return nil
}

// emit gives a pane to the stage's transforms.
func (g *grouping) emit(k *groupKey, op *pane.Op) error {
	var b values
	if i, ok := k.find(op.Window); ok {
		b = k.values[i]
	}
	out := make([]byte, 0, 64+len(k.Key())+len(b.bytes))
	out = coders.AppendHeader(out, op.Timestamp, 1, encodeWindow(nil, g.w, op.Window), coders.AppendPane(nil, op.Pane))
	out = append(out, k.Key()...)
	out = binary.BigEndian.AppendUint32(out, uint32(b.count))
	out = append(out, b.bytes...)
	return g.s.give(out, 1)
}

// settle notes what the key waits for and holds back, or that it is no more.
func (g *grouping) settle(k *groupKey) {
	g.wait(k)
	if k.panes.Empty() {
		g.keys.remove(k)
	} else {
		g.keys.resize(k, k.size())
	}
}

// holds is what a key holds back. The output watermark is behind the input's,
// and stays there until all keys that wait for that one are told: what comes out
// then needs no hold for anything that isn't before, and is due.
func (g *grouping) holds(k *pane.Key) (hold element.Timestamp, due bool) {
	hold = g.panes.Hold(k)
	if hold < element.MaxTimestamp && hold >= g.panes.Wake(k).Event-1 {
		return element.MaxTimestamp, true
	}
	return hold, false
}

// wait notes what the key waits for and holds back.
func (g *grouping) wait(k *groupKey) {
	wake, live := g.panes.Wake(&k.panes), !k.panes.Empty()
	hold, due := g.holds(&k.panes)
	if due != k.due {
		k.due = due
		if due {
			g.s.due++
		} else {
			g.s.due--
		}
	}
	if hold != k.hold {
		if hold < element.MaxTimestamp {
			g.s.marks.Hold(hold)
		}
		if k.hold < element.MaxTimestamp {
			g.s.marks.Release(k.hold)
		}
		k.hold = hold
	}
	g.event.set(&k.event, wake.Event, live)
	g.processing.set(&k.processing, wake.Processing, live && wake.Processing < element.MaxTimestamp)
	g.synchronized.set(&k.synchronized, wake.Synchronized, live && wake.Synchronized < element.MaxTimestamp)
}

// mostRipe is how many bytes of panes are made before they go out.
const mostRipe = 4 << 20

func (g *grouping) step(context.Context) (bool, error) {
	did := false
	now := g.now()
	for len(g.s.batch.chunk) < mostRipe {
		slot := g.due(now)
		if slot == nil {
			return did, g.keys.err
		}
		did = true
		k := g.keys.whole(slot.item)
		g.ops = g.panes.Advance(&k.panes, now, g.ops[:0])
		if err := g.do(k, nil); err != nil {
			return did, err
		}
	}
	return did, nil
}

// due is a key that is to be told that time has come. Those on disk come back
// when none in memory is left; looking for them may complete some in memory,
// whose time it is then.
func (g *grouping) due(now pane.Now) *wakeSlot[*groupKey] {
	for {
		if slot := g.ripe(now); slot != nil {
			return slot
		}
		if !g.keys.wake(now.Input, now.Processing, now.Synchronized) {
			return g.ripe(now)
		}
	}
}

// ripe is a key in memory that is to be told that time has come.
func (g *grouping) ripe(now pane.Now) *wakeSlot[*groupKey] {
	if slot := g.event.due(now.Input); slot != nil {
		return slot
	}
	if slot := g.processing.due(now.Processing); slot != nil {
		return slot
	}
	return g.synchronized.due(now.Synchronized)
}

func (g *grouping) next() element.Timestamp {
	return min(g.processing.next(), g.synchronized.next(), g.keys.next())
}
func (g *grouping) empty() bool  { return g.keys.table.Len() == 0 }
func (g *grouping) trim() error  { return g.keys.trim() }
func (g *grouping) close() error { return g.keys.table.Close() }

// decodeWindows appends an element's windows.
func decodeWindows(w *coders.Windowed, dst []window.Window, v *coders.Value) ([]window.Window, error) {
	rest := v.Windows
	for range v.NumWindows {
		var one []byte
		var err error
		if one, rest, err = w.CutWindow(rest); err != nil {
			return nil, err
		}
		win, err := decodeWindow(w, one)
		if err != nil {
			return nil, err
		}
		dst = append(dst, win)
	}
	return dst, nil
}

func decodeWindow(w *coders.Windowed, b []byte) (window.Window, error) {
	switch w.Window().URN() {
	case coders.URNGlobalWindow:
		return window.Global, nil
	case coders.URNIntervalWindow:
		i, _, err := coders.DecodeInterval(b)
		return window.Interval(i), err
	}
	last, err := w.MaxTimestamp(b)
	return window.Opaque(b, last), err
}

func encodeWindow(dst []byte, w *coders.Windowed, win window.Window) []byte {
	switch w.Window().URN() {
	case coders.URNGlobalWindow:
		return dst
	case coders.URNIntervalWindow:
		return coders.AppendInterval(dst, win.Interval())
	}
	return append(dst, win.Code...)
}
