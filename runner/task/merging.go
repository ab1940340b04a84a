package task

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/window"
)

// A windowMerger asks the SDK that made a window function which windows merge.
type windowMerger struct {
	br    *bundle.Runner
	aside *bundle.Aside
	w     *coders.Windowed // whose windows are merged
}

func newWindowMerger(r *run, br *bundle.Runner, w *coders.Windowed) *windowMerger {
	if r.prog.Merge == nil {
		return nil
	}
	return &windowMerger{br: r.prog.Merge.Runner(br, r.acquire), aside: r.prog.Merge, w: w}
}

// merge asks about several sets at once. Its answer has a place for each.
func (m *windowMerger) merge(ctx context.Context, sets [][]window.Window) ([][]window.Merge, error) {
	in, merges := &bundle.Input{}, make([][]window.Merge, len(sets))
	var b []byte
	for i, set := range sets {
		if len(set) == 0 {
			continue
		}
		b = coders.AppendHeader(b, element.MinTimestamp, 1, nil, coders.NoFiring)
		nonce := binary.AppendUvarint(nil, uint64(i))
		b = append(append(b, byte(len(nonce))), nonce...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(set)))
		for _, w := range set {
			b = encodeWindow(b, m.w, w)
		}
		in.Elements++
	}
	if in.Elements == 0 {
		return merges, nil
	}
	in.Chunks, in.Bytes = [][]byte{b}, int64(len(b))
	res, err := m.br.Run(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("merge windows: %w", err)
	}
	answered, known := 0, make([]bool, len(sets))
	var v coders.Value
	for rest := res.Kept; len(rest) > 0; answered++ {
		if rest, err = m.aside.Out.Next(rest, &v); err != nil {
			return nil, err
		}
		i, err := nonceOf(v.Key(), len(sets))
		if err == nil && (known[i] || len(sets[i]) == 0) {
			err = fmt.Errorf("the SDK answered twice, or what it was not asked: question %d", i)
		}
		if err == nil {
			known[i] = true
			merges[i], err = m.answer(v.KVValue())
		}
		if err != nil {
			return nil, fmt.Errorf("merge windows: %w", err)
		}
	}
	if answered != in.Elements {
		return nil, fmt.Errorf("merge windows: of %d sets of windows the SDK answered %d", in.Elements, answered)
	}
	return merges, nil
}

// nonceOf is the number that a question had, of those below n.
func nonceOf(key []byte, n int) (int, error) {
	if len(key) > 1 && int(key[0]) == len(key)-1 {
		if i, used := binary.Uvarint(key[1:]); used == len(key)-1 && i < uint64(n) {
			return int(i), nil
		}
	}
	return 0, fmt.Errorf("the SDK answered what it was not asked: %x", key)
}

// answer reads kv<iterable<W>, iterable<kv<W, iterable<W>>>>.
func (m *windowMerger) answer(b []byte) ([]window.Merge, error) {
	skip := func(b []byte) ([]byte, error) {
		_, rest, err := m.w.CutWindow(b)
		return rest, err
	}
	rest, err := walkIterable(b, skip) // those that stay as they are
	if err != nil {
		return nil, err
	}
	var merges []window.Merge
	_, err = walkIterable(rest, func(b []byte) ([]byte, error) {
		var merge window.Merge
		one, rest, err := m.w.CutWindow(b)
		if err != nil {
			return nil, err
		}
		if merge.Into, err = decodeWindow(m.w, one); err != nil {
			return nil, err
		}
		rest, err = walkIterable(rest, func(b []byte) ([]byte, error) {
			one, rest, err := m.w.CutWindow(b)
			if err != nil {
				return nil, err
			}
			w, err := decodeWindow(m.w, one)
			merge.From = append(merge.From, w)
			return rest, err
		})
		slices.SortFunc(merge.From, window.Window.Compare)
		merges = append(merges, merge)
		return rest, err
	})
	return merges, err
}

// walkIterable calls each with what begins with an element of an encoded
// iterable; it returns what follows the element. The rest is what follows the
// iterable.
func walkIterable(b []byte, each func(b []byte) (rest []byte, err error)) (rest []byte, err error) {
	count := func(n uint64) error {
		for ; n > 0 && err == nil; n-- {
			before := len(b)
			if before == 0 {
				return coders.ErrMalformed
			}
			// No element is empty, or a count alone could keep us for ever.
			if b, err = each(b); err == nil && len(b) >= before {
				return coders.ErrMalformed
			}
		}
		return err
	}
	if len(b) < 4 {
		return nil, coders.ErrMalformed
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	if n >= 0 {
		return b, count(uint64(n))
	}
	for {
		some, used := binary.Uvarint(b)
		if used <= 0 {
			return nil, coders.ErrMalformed
		}
		if b = b[used:]; some == 0 {
			return b, nil
		}
		if err := count(some); err != nil {
			return nil, err
		}
	}
}

// mapper asks the SDK of a side input's window function which of its windows
// main windows look at.
type windowMapper struct {
	br       *bundle.Runner
	aside    *bundle.Aside
	from, to *coders.Windowed
	known    map[window.Window]window.Window
}

// of is the side input's window for a main window.
func (m *windowMapper) of(ctx context.Context, main window.Window) (window.Window, error) {
	if w, ok := m.known[main]; ok {
		return w, nil
	}
	b := coders.AppendHeader(nil, element.MinTimestamp, 1, nil, coders.NoFiring)
	b = encodeWindow(append(b, 1, 0), m.from, main)
	res, err := m.br.Run(ctx, &bundle.Input{Chunks: [][]byte{b}, Elements: 1, Bytes: int64(len(b))})
	if err != nil {
		return window.Window{}, fmt.Errorf("map a window to that of a side input: %w", err)
	}
	var v coders.Value
	if _, err := m.aside.Out.Next(res.Kept, &v); err != nil {
		return window.Window{}, fmt.Errorf("map a window to that of a side input: %w", err)
	}
	w, err := decodeWindow(m.to, v.KVValue())
	if err == nil {
		if len(m.known) >= mostMapped {
			clear(m.known)
		}
		m.known[main] = w
	}
	return w, err
}

// mostMapped bounds the windows of which the mapping is remembered.
const mostMapped = 10_000
