package task

import (
	"container/heap"
	"context"
	"slices"
	"strconv"

	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/state"
	"trestle/runner/window"
)

// streamTimers are the timers that are set, by key. Those of a key fire in the
// order of their times, one in a bundle; the last of a window is that its state
// is dropped.
type streamTimers struct {
	s        *stream
	families []bundle.Family
	expiry   int // the family that the runner sets, -1 if none
	keys     paged[*streamKey]
	seq      int
	id       []byte // that is looked for

	event, processing wakeHeap[*streamKey]

	// ending says that the bundle under way is of timers, after all input of a
	// job that drains: processing time doesn't wait any more, and what would loop
	// has come to its end.
	ending bool
}

// A streamKey is the timers of one key.
type streamKey struct {
	state.Entry
	byID              map[string]*streamTimer
	bytes             int64 // of timers
	event, processing timerQueue
	eventSlot         wakeSlot[*streamKey]
	processingSlot    wakeSlot[*streamKey]
}

// The ranks of timers that fire at one time.
const (
	rankUser = iota
	rankExpiry
	rankDrop
)

type streamTimer struct {
	at     element.Timestamp // when it is ripe
	rank   int
	seq    int
	family int // -1: drops the state of a window
	hold   element.Timestamp
	window string // encoded
	raw    []byte
	id     string
	index  int
}

// timerQueue is a heap of timers, the next to fire first.
type timerQueue []*streamTimer

func (q timerQueue) Len() int { return len(q) }
func (q timerQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.at != b.at {
		return a.at < b.at
	}
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return a.seq < b.seq
}

// firstOfUser is the place of the first of the user's timers that are ripe, -1 if
// there is none.
func (q timerQueue) firstOfUser(until element.Timestamp) int {
	first := -1
	for i, x := range q {
		if x.rank == rankUser && x.at <= until && (first < 0 || q.Less(i, first)) {
			first = i
		}
	}
	return first
}

func (q timerQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *timerQueue) Push(x any) {
	t := x.(*streamTimer)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *timerQueue) Pop() any {
	t := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	t.index = -1
	return t
}

func newStreamTimers(s *stream) *streamTimers {
	t := &streamTimers{s: s, families: s.r.prog.Families}
	t.keys = newPaged(s, state.Pager[*streamKey](timerPager{t}), 0)
	t.expiry = slices.IndexFunc(t.families, func(f bundle.Family) bool { return f.Expiry })
	return t
}

// of is the key's timers.
func (t *streamTimers) of(key []byte) *streamKey {
	k := t.keys.get(key)
	if k == nil {
		k = newStreamKey()
		t.keys.add(string(key), k)
	}
	return k
}

func newStreamKey() *streamKey {
	k := &streamKey{byID: map[string]*streamTimer{}}
	k.eventSlot.item, k.processingSlot.item = k, k
	return k
}

// queueOf is where a timer waits.
func (t *streamTimers) queueOf(k *streamKey, x *streamTimer) *timerQueue {
	if x.family >= 0 && t.families[x.family].ProcessingTime {
		return &k.processing
	}
	return &k.event
}

// expire makes sure that a window's state is dropped when it has expired, and
// that the user's code hears of it where it wants to. Both come behind the timers
// of the first instant that is not in the window any more, where Python's code
// likes to set them.
func (t *streamTimers) expire(key []byte, w window.Window, code []byte) {
	if len(t.families) == 0 && w == window.Global {
		return // it outlives the task
	}
	k := t.of(key)
	t.id = append(append(t.id[:0], "drop"...), code...)
	if k.byID[string(t.id)] != nil {
		return
	}
	id := string(t.id)
	at := window.Passing(window.Passing(w.Expiry(t.s.r.prog.Stream.LatenessMillis)))
	t.put(k, &streamTimer{at: at, rank: rankDrop, family: -1, hold: element.MaxTimestamp, window: string(code), id: id})
	for i, f := range t.families {
		if f.Expiry {
			end := w.MaxTimestamp()
			t.put(k, &streamTimer{
				at: at, rank: rankExpiry, family: i, hold: end, window: string(code),
				raw: bundle.AppendTimer(nil, key, code, end), id: "expiry" + strconv.Itoa(i) + string(code),
			})
		}
	}
}

func (t *streamTimers) put(k *streamKey, x *streamTimer) {
	t.seq++
	x.seq = t.seq
	t.enter(k, x)
	t.settle(k)
}

// enter adds a timer that has its place among others.
func (t *streamTimers) enter(k *streamKey, x *streamTimer) {
	k.byID[x.id] = x
	k.bytes += x.size()
	heap.Push(t.queueOf(k, x), x)
	if x.hold < element.MaxTimestamp {
		t.s.marks.Hold(x.hold)
	}
}

func (t *streamTimers) remove(k *streamKey, x *streamTimer) {
	heap.Remove(t.queueOf(k, x), x.index)
	delete(k.byID, x.id)
	k.bytes -= x.size()
	if x.hold < element.MaxTimestamp {
		t.s.marks.Release(x.hold)
	}
	t.settle(k)
}

// settle notes when the key's next timers are ripe, or that there are none.
func (t *streamTimers) settle(k *streamKey) {
	t.wait(k)
	if len(k.byID) == 0 {
		t.keys.remove(k)
	} else {
		t.keys.resize(k, k.size())
	}
}

// wait notes when the key's next timers are ripe.
func (t *streamTimers) wait(k *streamKey) {
	set := func(h *wakeHeap[*streamKey], slot *wakeSlot[*streamKey], q timerQueue) {
		if len(q) > 0 {
			h.set(slot, q[0].at, true)
		} else {
			h.set(slot, 0, false)
		}
	}
	set(&t.event, &k.eventSlot, k.event)
	set(&t.processing, &k.processingSlot, k.processing)
}

// take applies what a bundle set and cleared, in the order in which it did. The
// bundle ran from began to ended, by the real clock.
func (t *streamTimers) take(chunks []bundle.TimerChunk, began, ended element.Timestamp) error {
	for _, c := range chunks {
		i := slices.IndexFunc(t.families, func(f bundle.Family) bool { return f.Transform == c.Transform && f.ID == c.Family })
		for b := c.Bytes; len(b) > 0; {
			x, rest, err := t.families[i].Cut(b)
			if err != nil {
				return err
			}
			k := t.of(x.Key)
			id := "user" + timerID(i, &x)
			if old := k.byID[id]; old != nil {
				t.remove(k, old)
				k = t.of(x.Key)
			}
			if x.Clear || t.ending && t.loops(i, &x) {
				t.settle(k)
			} else {
				at := x.Fire
				switch {
				case !t.families[i].ProcessingTime:
					// Elements of that very time come before it, such as what was grouped
					// in the window at whose end the timer is.
					at = window.Passing(at)
				case t.s.job.played:
					at = min(t.s.job.time()+meant(at, began, ended), endOfTime)
				}
				t.put(k, &streamTimer{at: at, family: i, hold: min(x.Hold, element.MaxTimestamp), window: string(x.Windows), raw: slices.Clone(x.Raw), id: id})
			}
			b = rest
		}
	}
	return nil
}

// roundDelays are what delays in tests are multiples of, in milliseconds.
var roundDelays = [...]element.Timestamp{3_600_000, 60_000, 30_000, 10_000, 5_000, 1_000, 500, 100, 10, 1}

// meant is how long a timer of processing time was to wait, in milliseconds. Its
// worker has set it by the real clock, some time between began and ended, and a
// TestStream's clock knows nothing of that one. Of the delays that it may be, the
// roundest is taken.
func meant(fire, began, ended element.Timestamp) element.Timestamp {
	least, most := fire-ended, fire-began
	if least <= 0 {
		return 0
	}
	for _, unit := range roundDelays {
		if d := (least + unit - 1) / unit * unit; d <= most {
			return d
		}
	}
	return least
}

// loops reports whether a timer that a timer has set is one too many where
// nothing more will come: the clock doesn't wait for it, or its window has no
// end before which it could fire.
func (t *streamTimers) loops(family int, x *bundle.Timer) bool {
	return t.families[family].ProcessingTime || x.Fire >= element.EndOfGlobalWindow || len(x.Windows) == 0
}

// mostKeys is how many keys' timers are in one bundle.
const mostKeys = 10_000

// A firing is the timers of one bundle, and the keys that they are of.
type firing struct {
	keys   []*streamKey
	timers []*streamTimer
}

// fire runs a bundle of timers that are ripe at a watermark, one of each key.
func (t *streamTimers) fire(ctx context.Context, watermark element.Timestamp) (bool, error) {
	now := t.s.job.time()
	if t.ending = t.s.marks.Input() >= element.MaxTimestamp && t.s.job.drained(); t.ending {
		now = element.MaxTimestamp
	}
	var f firing
	for len(f.timers) == 0 {
		t.pull(&f, &t.event, watermark)
		t.pull(&f, &t.processing, now)
		if len(f.timers) == 0 && !t.keys.wake(watermark, now, element.MinTimestamp) {
			return false, t.keys.err
		}
	}
	if parts := t.inputs(&f); len(parts) > 0 {
		if _, err := t.s.bundles(ctx, parts); err != nil {
			return false, err
		}
	}
	t.ending = false
	for i, x := range f.timers {
		if x.hold < element.MaxTimestamp {
			t.s.marks.Release(x.hold)
		}
		if x.family < 0 {
			if err := t.drop(f.keys[i], x.window); err != nil {
				return false, err
			}
		}
	}
	for _, k := range f.keys {
		t.settle(k)
	}
	return true, nil
}

// pull takes the next timer of each key that is ripe. The key is out of both
// heaps until the bundle has ended.
func (t *streamTimers) pull(f *firing, h *wakeHeap[*streamKey], until element.Timestamp) {
	for len(f.keys) < mostKeys {
		slot := h.due(until)
		if slot == nil {
			return
		}
		k := slot.item
		q, first := &k.event, 0
		if h == &t.processing {
			q = &k.processing
		} else if (*q)[0].rank > rankUser && t.s.marks.Input() >= element.MaxTimestamp && len(k.processing) > 0 {
			// Nothing more will come, and time goes on: what waits for it may still
			// happen before the windows are given up; but timers of other windows
			// don't wait for it.
			if first = k.event.firstOfUser(until); first < 0 {
				t.event.set(&k.eventSlot, 0, false)
				continue
			}
		}
		x := heap.Remove(q, first).(*streamTimer)
		delete(k.byID, x.id)
		k.bytes -= x.size()
		f.keys, f.timers = append(f.keys, k), append(f.timers, x)
		t.event.set(&k.eventSlot, 0, false)
		t.processing.set(&k.processingSlot, 0, false)
	}
}

// inputs are what the worker is told of them; of each key there is one.
func (t *streamTimers) inputs(f *firing) []*bundle.Input {
	told := make([]*streamTimer, 0, len(f.timers))
	for _, x := range f.timers {
		if x.family >= 0 {
			told = append(told, x)
		}
	}
	var parts []*bundle.Input
	for _, some := range t.s.r.divide(len(told)) {
		b := timerBundle{families: t.families}
		for _, x := range told[some[0]:some[1]] {
			b.add(x.family, x.raw)
		}
		parts = append(parts, b.input())
	}
	return parts
}

// drop forgets a window of a key.
func (t *streamTimers) drop(k *streamKey, code string) error {
	var all []*streamTimer
	for _, x := range k.byID {
		if x.window == code {
			all = append(all, x)
		}
	}
	for _, x := range all {
		t.remove(k, x)
	}
	if err := t.s.state.Drop(code, k.Key()); err != nil {
		return err
	}
	if bare := unprefixed(k.Key()); bare != k.Key() {
		return t.s.state.Drop(code, bare)
	}
	return nil
}
