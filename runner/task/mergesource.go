package task

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"
	"trestle/runner/group"
	"trestle/runner/window"
)

// A mergeSource groups by key and window where windows merge by their SDK's
// rule: it has the grouper bring each key's elements together, and asks which
// of their windows are one. It holds the elements of some keys in memory, at
// least of one.
type mergeSource struct {
	*groupSource
	w      *coders.Windowed
	by     group.Combiner
	merger *windowMerger
	budget *membudget.Budget

	ended bool
	ready [][]byte // groups to be given
	taken int64    // from the budget
}

// mergeKey is a key with its values by window.
type mergeKey struct {
	key     []byte
	windows map[window.Window]*mergeGroup
}

// mergeGroup is the values of a window, encoded one after another.
type mergeGroup struct {
	values []byte
	count  int
	ts     element.Timestamp // of the group; not used for EndOfWindow
}

func (s *mergeSource) fill(ctx context.Context, dst []byte, most int) ([]byte, int, error) {
	count := 0
	for len(dst) < chunkSize && count < most {
		if len(s.ready) == 0 {
			if s.ended && count == 0 {
				return dst, 0, io.EOF
			}
			if s.ended {
				break
			}
			if err := s.nextKeys(ctx); err != nil {
				return dst, count, err
			}
			continue
		}
		dst = append(dst, s.ready[0]...)
		s.ready = s.ready[1:]
		count++
	}
	return dst, count, nil
}

func (s *mergeSource) more() bool { return false }

func (s *mergeSource) close() {
	s.budget.Give(s.taken)
	s.taken = 0
	s.groupSource.close()
}

// nextKeys collects some keys, and makes their groups.
func (s *mergeSource) nextKeys(ctx context.Context) error {
	var keys []*mergeKey
	size := 0
	for size < chunkSize && !s.ended {
		elems, err := s.nextKey()
		if errors.Is(err, io.EOF) {
			s.ended = true
			break
		}
		if err != nil {
			return err
		}
		k, err := s.split(elems)
		if err != nil {
			return err
		}
		keys = append(keys, k)
		size += len(elems)
	}
	s.budget.Take(3*int64(size) - s.taken) // as they came, by window, as groups
	s.taken = 3 * int64(size)
	sets := make([][]window.Window, len(keys))
	for i, k := range keys {
		sets[i] = k.sorted()
	}
	merges, err := s.merger.merge(ctx, sets)
	if err != nil {
		return err
	}
	for i, k := range keys {
		if err := window.Check(sets[i], merges[i]); err != nil {
			return err
		}
		for _, m := range merges[i] {
			s.mergeGroups(k, m)
		}
		for _, w := range k.sorted() {
			s.ready = append(s.ready, s.encode(k, w))
		}
	}
	return nil
}

// nextKey is all elements of a key.
func (s *mergeSource) nextKey() (elems []byte, err error) {
	for more := true; more; more = s.g.More() {
		if elems, _, err = s.g.Next(elems); err != nil {
			return nil, err
		}
		if most := max(s.budget.Limit()/4, 64<<20); int64(len(elems)) > most {
			return nil, fmt.Errorf("one key's values take more than %d bytes (a quarter of --memory's share for data): windows that their own SDK merges need them in memory all at once; use larger memory, smaller keys, or standard windows", most)
		}
	}
	return elems, nil
}

// split sorts a key's values by window.
func (s *mergeSource) split(elems []byte) (*mergeKey, error) {
	k := &mergeKey{windows: map[window.Window]*mergeGroup{}}
	var v coders.Value
	var wins []window.Window
	for len(elems) > 0 {
		var err error
		if elems, err = s.w.Next(elems, &v); err != nil {
			return nil, err
		}
		k.key = v.Key()
		if wins, err = decodeWindows(s.w, wins[:0], &v); err != nil {
			return nil, err
		}
		for _, w := range wins {
			g := k.windows[w]
			if g == nil {
				g = &mergeGroup{ts: v.Timestamp()}
				k.windows[w] = g
			}
			g.values = append(g.values, v.KVValue()...)
			g.ts = s.combine(g.ts, v.Timestamp())
			g.count++
		}
	}
	return k, nil
}

func (s *mergeSource) combine(a, b element.Timestamp) element.Timestamp {
	if s.by == group.Latest {
		return max(a, b)
	}
	return min(a, b)
}

func (s *mergeSource) mergeGroups(k *mergeKey, m window.Merge) {
	var into *mergeGroup
	for _, w := range m.From {
		g := k.windows[w]
		delete(k.windows, w)
		if into == nil {
			into = g
			continue
		}
		into.values = append(into.values, g.values...)
		into.count += g.count
		into.ts = s.combine(into.ts, g.ts)
	}
	k.windows[m.Into] = into
}

func (k *mergeKey) sorted() []window.Window {
	all := make([]window.Window, 0, len(k.windows))
	for w := range k.windows {
		all = append(all, w)
	}
	slices.SortFunc(all, window.Window.Compare)
	return all
}

// encode makes the one element of a group.
func (s *mergeSource) encode(k *mergeKey, w window.Window) []byte {
	g := k.windows[w]
	ts := g.ts
	if s.by == group.EndOfWindow {
		ts = w.MaxTimestamp()
	}
	out := make([]byte, 0, 64+len(k.key)+len(g.values))
	out = coders.AppendHeader(out, ts, 1, encodeWindow(nil, s.w, w), coders.OnlyFiring)
	out = append(out, k.key...)
	out = binary.BigEndian.AppendUint32(out, uint32(g.count))
	return append(out, g.values...)
}
