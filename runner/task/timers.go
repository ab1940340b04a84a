package task

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
)

// settle runs the timers that bundles of bounded input have set, and those that
// they set, until none is left. All input of the bundles' keys is in: event
// time stands at its end, so every timer is ripe, and each key's fire in the
// order of their time. Processing-time timers come after those of event time,
// in their own order: the job's clock moves when nothing else is to be done. The
// expiry of a key's windows is the last that happens to it.
//
// (Flink's batch state backend, fitted to the Fn API, where a timer is known
// only at the end of the bundle that set it.)
func (r *run) settle(ctx context.Context, br *bundle.Runner, p *pending) error {
	for {
		parts := p.round(r.divide)
		if len(parts) == 0 {
			p.close()
			return nil
		}
		results, err := br.RunApart(ctx, parts)
		if err != nil {
			return err
		}
		for _, res := range results {
			r.live.add(&bundle.Result{OutElements: res.OutElements, OutBytes: res.OutBytes})
			if err := p.take(res.Timers); err != nil {
				return err
			}
		}
	}
}

func (r *run) newPending() *pending {
	p := &pending{families: r.prog.Families, keys: map[string]*keyTimers{}, budget: r.m.cfg.Budget}
	for i, f := range p.families {
		if f.Expiry {
			p.expiries = append(p.expiries, i)
		}
	}
	return p
}

// pending are the timers that are set, by key.
type pending struct {
	families []bundle.Family
	expiries []int // those of families that the runner sets
	keys     map[string]*keyTimers
	seq      int
	budget   *membudget.Budget
	held     int64 // bytes taken from it
}

// timerBytes is about what a timer costs besides its encoding.
const timerBytes = 160

func (p *pending) hold(n int64) {
	p.budget.Take(n)
	p.held += n
}

// close forgets all timers.
func (p *pending) close() {
	p.budget.Give(p.held)
	p.held = 0
	clear(p.keys)
}

// expire sets the timers for the end of the windows of each key in a bundle's
// input.
func (p *pending) expire(in *bundle.Input, w *coders.Windowed) error {
	if len(p.expiries) == 0 {
		return nil
	}
	var v, last coders.Value
	for _, chunk := range in.Chunks {
		for len(chunk) > 0 {
			var err error
			if chunk, err = w.Next(chunk, &v); err != nil {
				return err
			}
			if last.Raw != nil && bytes.Equal(v.Key(), last.Key()) && bytes.Equal(v.Windows, last.Windows) && v.NumWindows == last.NumWindows {
				continue
			}
			if err := p.expireWindows(&v, w); err != nil {
				return err
			}
			last = v
		}
	}
	return nil
}

func (p *pending) expireWindows(v *coders.Value, w *coders.Windowed) error {
	windows := v.Windows
	for range v.NumWindows {
		window, rest, err := w.CutWindow(windows)
		if err != nil {
			return err
		}
		windows = rest
		end, err := w.MaxTimestamp(window)
		if err != nil {
			return err
		}
		for _, family := range p.expiries {
			t := bundle.Timer{Key: v.Key(), Windows: window, Count: 1, Fire: end, Hold: end}
			if k := p.keys[string(t.Key)]; k != nil && k.byID[timerID(family, &t)] != nil {
				continue
			}
			t.Raw = bundle.AppendTimer(nil, t.Key, window, end)
			p.hold(int64(len(t.Raw)))
			p.apply(family, &t)
		}
	}
	return nil
}

// keyTimers are one key's timers, the next to fire first.
type keyTimers struct {
	key  string
	byID map[string]*timer
	heap timerHeap
}

type timer struct {
	family int
	fire   element.Timestamp
	seq    int // in the order in which they were set
	raw    []byte
	index  int // in the heap
}

// take applies what a bundle set and cleared, in the order in which it did.
func (p *pending) take(chunks []bundle.TimerChunk) error {
	for _, c := range chunks {
		i := slices.IndexFunc(p.families, func(f bundle.Family) bool { return f.Transform == c.Transform && f.ID == c.Family })
		p.hold(int64(len(c.Bytes)))
		for b := c.Bytes; len(b) > 0; {
			t, rest, err := p.families[i].Cut(b)
			if err != nil {
				return err
			}
			p.apply(i, &t)
			b = rest
		}
	}
	return nil
}

func (p *pending) apply(family int, t *bundle.Timer) {
	k := p.keys[string(t.Key)]
	if k == nil {
		k = &keyTimers{key: string(t.Key), byID: map[string]*timer{}, heap: timerHeap{families: p.families}}
		p.keys[k.key] = k
	}
	id := timerID(family, t)
	if old := k.byID[id]; old != nil && old.index >= 0 {
		heap.Remove(&k.heap, old.index)
		delete(k.byID, id)
	}
	if t.Clear {
		return
	}
	p.seq++
	p.hold(timerBytes)
	n := &timer{family: family, fire: t.Fire, seq: p.seq, raw: t.Raw}
	k.byID[id] = n
	heap.Push(&k.heap, n)
}

// timerID tells a key's timers apart: one that is set replaces the one of its id.
func timerID(family int, t *bundle.Timer) string {
	b := binary.AppendUvarint(make([]byte, 0, 64), uint64(family))
	b = binary.AppendUvarint(b, uint64(len(t.Tag)))
	return string(append(append(b, t.Tag...), t.Windows...))
}

// round takes each key's next timer, for bundles that divide tells the parts of;
// none if there is none.
func (p *pending) round(divide func(n int) [][2]int) []*bundle.Input {
	keys := make([]*keyTimers, 0, len(p.keys))
	for id, k := range p.keys {
		if len(k.heap.timers) == 0 {
			delete(p.keys, id)
			continue
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b *keyTimers) int { return cmp.Compare(a.key, b.key) })
	var parts []*bundle.Input
	for _, some := range divide(len(keys)) {
		b := timerBundle{families: p.families}
		for _, k := range keys[some[0]:some[1]] {
			t := heap.Pop(&k.heap).(*timer)
			b.add(t.family, t.raw)
		}
		parts = append(parts, b.input())
	}
	return parts
}

// timerHeap orders timers: event time before processing time before expiries,
// then by the time to fire, then as they were set.
type timerHeap struct {
	timers   []*timer
	families []bundle.Family
}

func (h *timerHeap) Len() int { return len(h.timers) }

func (h *timerHeap) Less(i, j int) bool {
	a, b := h.timers[i], h.timers[j]
	if c := cmp.Compare(h.rank(a), h.rank(b)); c != 0 {
		return c < 0
	}
	if c := cmp.Compare(a.fire, b.fire); c != 0 {
		return c < 0
	}
	return a.seq < b.seq
}

func (h *timerHeap) rank(t *timer) int {
	switch f := &h.families[t.family]; {
	case f.Expiry:
		return 2
	case f.ProcessingTime:
		return 1
	}
	return 0
}

func (h *timerHeap) Swap(i, j int) {
	h.timers[i], h.timers[j] = h.timers[j], h.timers[i]
	h.timers[i].index, h.timers[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(h.timers)
	h.timers = append(h.timers, t)
}

func (h *timerHeap) Pop() any {
	t := h.timers[len(h.timers)-1]
	h.timers = h.timers[:len(h.timers)-1]
	t.index = -1
	return t
}
