package pane_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"trestle/element"
	"trestle/runner/pane"
	"trestle/runner/window"

	"github.com/google/go-cmp/cmp"
)

// A rig is the least engine that a decider needs: buffers of elements, which
// are words here, and keys' states, which it keeps encoded. It checks that the
// operations make sense and writes down what comes out.
type rig struct {
	t       failer
	s       *pane.Strategy
	fn      window.Fn
	keys    map[string][]byte
	buffers map[string]map[window.Window][]string
	now     pane.Now
	dropped int
	out     strings.Builder
	panes   []emitted
}

// emitted is a pane that came out.
type emitted struct {
	Key       string
	Window    window.Window
	Pane      element.Pane
	Timestamp element.Timestamp
	Elements  []string
}

// failer is what fails a test, of whichever kind.
type failer interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newRig(t failer, s *pane.Strategy, fn window.Fn) *rig {
	return &rig{
		t: t, s: s, fn: fn,
		keys:    map[string][]byte{},
		buffers: map[string]map[window.Window][]string{},
		now: pane.Now{
			Input: element.MinTimestamp, Output: element.MinTimestamp,
		},
	}
}

// load is a key's state as it was kept.
func (r *rig) load(key string) *pane.Key {
	k, err := r.s.Decode(r.keys[key])
	if err != nil {
		r.t.Fatalf("state of %s: %v", key, err)
	}
	return &k
}

func (r *rig) save(key string, k *pane.Key) {
	b := r.s.Append(nil, k)
	again, err := r.s.Decode(b)
	if err != nil {
		r.t.Fatalf("state of %s can't be read back: %v", key, err)
	}
	if diff := cmp.Diff(b, r.s.Append(nil, &again)); diff != "" {
		r.t.Fatalf("state of %s changes when it is read back: %s", key, diff)
	}
	if r.s.Wake(k) != r.s.Wake(&again) || r.s.Hold(k) != r.s.Hold(&again) {
		r.t.Fatalf("state of %s waits for something else when it is read back", key)
	}
	if w := r.s.Wake(k); w.Due(r.now) && w != pane.NoWake {
		r.t.Fatalf("%s is due still: it waits for %v at %v", key, w, r.now)
	}
	delete(r.keys, key)
	if len(b) > 0 {
		r.keys[key] = b
	}
}

// An item is an element on its way.
type item struct {
	at      element.Timestamp
	windows []window.Window
	word    string
}

// add adds elements to one key, together.
func (r *rig) add(key string, items []item) {
	k := r.load(key)
	elems := make([]pane.Element, len(items))
	words := make([]string, len(items))
	for i, it := range items {
		elems[i] = pane.Element{Timestamp: it.at, Windows: it.windows}
		words[i] = it.word
	}
	var merges []window.Merge
	if r.s.Merging == window.MergeByTheirFn {
		merges = mergeByLetter(r.s.Unmerged(k, elems))
	}
	ops, err := r.s.Add(k, r.now, elems, merges, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.do(key, ops, words)
	r.save(key, k)
	r.settle()
}

// mergeByLetter is an SDK's own rule: windows merge whose codes begin alike.
func mergeByLetter(windows []window.Window) []window.Merge {
	by := map[byte][]window.Window{}
	for _, w := range windows {
		by[w.Code[0]] = append(by[w.Code[0]], w)
	}
	var merges []window.Merge
	for _, letter := range slices.Sorted(maps.Keys(by)) {
		from := by[letter]
		if len(from) == 1 {
			continue
		}
		last := from[len(from)-1].MaxTimestamp()
		merges = append(merges, window.Merge{Into: window.Opaque([]byte{letter, '*'}, last), From: from})
	}
	return merges
}

// advance tells the keys that wait for it what time it is.
func (r *rig) advance() {
	for _, key := range slices.Sorted(maps.Keys(r.keys)) {
		k := r.load(key)
		if !r.s.Wake(k).Due(r.now) {
			continue
		}
		r.do(key, r.s.Advance(k, r.now, nil), nil)
		r.save(key, k)
	}
	r.settle()
}

// settle lets the output watermark follow the input.
func (r *rig) settle() {
	least := r.now.Input
	for key := range r.keys {
		least = min(least, r.s.Hold(r.load(key)))
	}
	r.now.Output = max(r.now.Output, least)
}

// do carries out operations.
func (r *rig) do(key string, ops []pane.Op, words []string) {
	buffers := r.buffers[key]
	if buffers == nil {
		buffers = map[window.Window][]string{}
		r.buffers[key] = buffers
	}
	for _, op := range ops {
		w := op.Window
		switch op.Kind {
		case pane.Append:
			buffers[w] = append(buffers[w], words[op.Element])
		case pane.Merge:
			names := make([]string, len(op.From))
			for i, from := range op.From {
				if len(buffers[from]) == 0 || from == w {
					r.t.Fatalf("the buffer of %s, which is merged into %s, is empty or the same", from, w)
				}
				names[i] = name(from)
				buffers[w] = append(buffers[w], buffers[from]...)
				delete(buffers, from)
			}
			fmt.Fprintf(&r.out, "%s %s += %s\n", key, name(w), strings.Join(names, " "))
		case pane.Emit:
			r.emit(emitted{key, w, op.Pane, op.Timestamp, slices.Clone(buffers[w])})
		case pane.Clear:
			if len(buffers[w]) == 0 {
				r.t.Fatalf("the buffer of %s is cleared, but empty", w)
			}
			delete(buffers, w)
		case pane.DropExpired, pane.DropClosed:
			r.dropped++
			why := "dropped"
			if op.Kind == pane.DropClosed {
				why = "closed, dropped"
			}
			fmt.Fprintf(&r.out, "%s %s %s: %s (%d so far)\n", key, name(w), why, words[op.Element], r.dropped)
		case pane.Expire:
			if len(buffers[w]) > 0 {
				r.t.Fatalf("%s expires with elements in its buffer", w)
			}
			fmt.Fprintf(&r.out, "%s %s expired\n", key, name(w))
		}
	}
}

func (r *rig) emit(e emitted) {
	if e.Timestamp < r.now.Output && e.Pane.Timing != element.Late {
		r.t.Fatalf("a pane of %s comes at %s, behind the output watermark %s", e.Window, e.Timestamp, r.now.Output)
	}
	if e.Pane.First != (e.Pane.Index == 0) {
		r.t.Fatalf("pane %+v is first or isn't", e.Pane)
	}
	r.panes = append(r.panes, e)
	fmt.Fprintf(&r.out, "%s %s %s pane=%d", e.Key, name(e.Window), timings[e.Pane.Timing], e.Pane.Index)
	if e.Pane.Timing != element.Early && e.Pane.OnTimeIndex != e.Pane.Index {
		fmt.Fprintf(&r.out, "/%d", e.Pane.OnTimeIndex)
	}
	if e.Pane.Last {
		r.out.WriteString(" last")
	}
	if e.Timestamp != e.Window.MaxTimestamp() {
		fmt.Fprintf(&r.out, " at=%s", ms(e.Timestamp))
	}
	fmt.Fprintf(&r.out, ": %s\n", strings.Join(e.Elements, " "))
}

var timings = [...]string{element.Early: "early", element.OnTime: "on-time", element.Late: "late"}

// name is how a test writes a window.
func name(w window.Window) string {
	switch {
	case w == window.Global:
		return "global"
	case w.Code != "":
		return fmt.Sprintf("%s@%s", w.Code, ms(w.MaxTimestamp()))
	}
	return fmt.Sprintf("[%s,%s)", ms(w.Start), ms(w.End))
}

// ms is how a test writes a time.
func ms(t element.Timestamp) string {
	switch t {
	case element.MinTimestamp, element.MaxTimestamp, element.EndOfGlobalWindow:
		return t.String()
	case element.EndOfGlobalWindow + 1:
		return "after-global"
	}
	return (time.Duration(t) * time.Millisecond).String()
}
