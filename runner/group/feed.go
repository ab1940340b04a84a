package group

import (
	"cmp"
	"slices"
)

// A feed gives groups and, for each, its values piece by piece.
type feed interface {
	// group goes on to the next group. It reports false at the end.
	group() (bool, error)
	// windowKey gives the group's window and key, valid until the next call of
	// group.
	windowKey() (window, key []byte)
	// values gives the group's next piece, valid until the next call. It reports
	// false at the group's end, and must be called until then.
	values() (piece, bool, error)
	close()
}

// A piece is some whole values of one group; when merging windows, one item.
type piece struct {
	values []byte
	count  int
	ts     int64 // earliest or latest of the group so far, if it is asked for
}

// A walk gives what is in a table, in the order in which groups were made, for
// so they lie in memory.
type walk struct {
	t       *table
	merging bool
	at      uint32 // the group, or 0
	next    uint32 // group
	span    uint32 // of the group, the next one
	items   []uint32
	item    int

	looked  int    // groups from next on that were looked at ahead
	touched uint32 // keeps the compiler from leaving lookAhead out
}

func newWalk(t *table, merging bool) *walk { return &walk{t: t, merging: merging, next: t.begin} }

func (w *walk) group() (bool, error) {
	if w.next == 0 {
		return false, nil
	}
	if w.looked == 0 {
		w.lookAhead()
	}
	w.looked--
	w.at = w.next
	h := w.t.head(w.at)
	w.next, w.span = h.next, h.first
	if w.merging {
		w.items, w.item = w.t.sortedItems(w.items[:0], h.first), 0
	}
	return true, nil
}

// lookAhead reads the second spans of the next groups, which may lie anywhere,
// so that they are in the processor's cache when they are wanted (as
// table.touch).
func (w *walk) lookAhead() {
	var spans [ahead]uint32
	n := 0
	for next := w.next; next != 0 && n < ahead; n++ {
		h := w.t.head(next)
		next = h.next
		spans[n] = w.t.span(h.first).next
	}
	for _, addr := range spans[:n] {
		if addr != 0 {
			w.touched += w.t.span(addr).used
		}
	}
	w.looked = n
}

func (w *walk) windowKey() (window, key []byte) {
	h := w.t.head(w.at)
	wk := w.t.windowKey(w.at, h)
	return wk[:h.winLen:h.winLen], wk[h.winLen:]
}

func (w *walk) values() (piece, bool, error) {
	if w.merging {
		if w.item == len(w.items) {
			return piece{}, false, nil
		}
		w.item++
		return piece{values: cutItem(w.t.at(w.items[w.item-1])), count: 1}, true, nil
	}
	if w.span == 0 {
		return piece{}, false, nil
	}
	s := w.t.span(w.span)
	p := piece{values: w.t.values(w.span, s), count: int(s.count), ts: w.t.head(w.at).ts}
	w.span = s.next
	return p, true, nil
}

func (w *walk) close() {}

// sortedItems gives the items of a group by the start of their windows.
func (t *table) sortedItems(items []uint32, span uint32) []uint32 {
	for span != 0 {
		s := t.span(span)
		for off := 0; off < int(s.used); {
			addr := span + uint32((spanSize+off)/unit)
			items = append(items, addr)
			off += len(cutItem(t.at(addr)))
		}
		span = s.next
	}
	slices.SortStableFunc(items, func(a, b uint32) int {
		return cmp.Compare(decodeItem(t.at(a)).Start, decodeItem(t.at(b)).Start)
	})
	return items
}

// A mergeFeed gives what is in runs.
type mergeFeed struct {
	m       *merge
	current record // hash, window and key of the group; key is its own
	passed  bool   // the top record was given and must be passed
}

func (f *mergeFeed) pass() error {
	if !f.passed {
		return nil
	}
	f.passed = false
	return f.m.advance()
}

func (f *mergeFeed) group() (bool, error) {
	if err := f.pass(); err != nil {
		return false, err
	}
	top := f.m.top()
	if top == nil {
		return false, nil
	}
	f.current = record{hash: top.hash, winLen: top.winLen, key: append(f.current.key[:0], top.key...)}
	return true, nil
}

func (f *mergeFeed) windowKey() (window, key []byte) {
	return f.current.key[:f.current.winLen:f.current.winLen], f.current.key[f.current.winLen:]
}

func (f *mergeFeed) values() (piece, bool, error) {
	if err := f.pass(); err != nil {
		return piece{}, false, err
	}
	top := f.m.top()
	if top == nil || !top.sameGroup(&f.current) {
		return piece{}, false, nil
	}
	f.passed = true
	return piece{values: top.values, count: top.count, ts: top.ts}, true, nil
}

func (f *mergeFeed) close() { f.m.close() }
