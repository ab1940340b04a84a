package pane_test

import (
	"bytes"
	"testing"

	"trestle/element"
	"trestle/runner/pane"
	"trestle/runner/trigger"
	"trestle/runner/trigger/triggertest"
	"trestle/runner/window"

	"pgregory.net/rapid"
)

// fuzzed is a strategy with a trigger that has something of everything.
func fuzzed(t testing.TB) *pane.Strategy {
	tree, err := trigger.New(triggertest.Parse(
		"each(eow(early=any(count(2), after(delay 5)), late=synchronized), orFinally(repeat(count(3)), all(eow, never)))",
	), trigger.Options{Merging: true})
	if err != nil {
		t.Fatal(err)
	}
	return &pane.Strategy{Trigger: tree, Merging: window.MergeOverlap, Combiner: pane.Earliest, LatenessMillis: 10}
}

// FuzzKey decodes bytes as a Key. They are none, or a Key that can be used and
// encodes as something that is the same Key.
func FuzzKey(f *testing.F) {
	s := fuzzed(f)
	var k pane.Key
	for i, at := range []element.Timestamp{1, 20, 50, 52} {
		w := []window.Window{{Start: at, End: at + 5}}
		now := pane.Now{Input: element.Timestamp(10 * i), Processing: element.Timestamp(i)}
		if _, err := s.Add(&k, now, []pane.Element{{Timestamp: at, Windows: w}}, nil, nil); err != nil {
			f.Fatal(err)
		}
		f.Add(s.Append(nil, &k))
	}
	f.Add([]byte{0x20, 0x10, 0x02, 'a', 'b', 1, 1, 1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := s.Decode(b)
		if err != nil {
			return
		}
		again := s.Append(nil, &k)
		k2, err := s.Decode(again)
		if err != nil {
			t.Fatalf("%x is a key, but its encoding %x is not: %v", b, again, err)
		}
		if !bytes.Equal(again, s.Append(nil, &k2)) {
			t.Fatalf("%x changes again and again", b)
		}
		s.Wake(&k)
		s.Hold(&k)
		now := pane.Now{Input: 100, Output: 50, Processing: 100, Synchronized: 100}
		elems := []pane.Element{{Timestamp: 98, Windows: []window.Window{{Start: 98, End: 120}}}}
		if _, err := s.Add(&k, now, elems, nil, nil); err != nil {
			t.Fatal(err)
		}
		now.Input = element.MaxTimestamp
		if s.Advance(&k, now, nil); !k.Empty() {
			t.Fatalf("%x outlives the end of time", b)
		}
	})
}

// TestTogether checks that it makes no difference how elements were bundled,
// where windows don't merge.
func TestTogether(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ws := drawStrategy(rt, t, "fixed=10", "sliding=10/5", "global")
		s, err := pane.StrategyOf(ws)
		if err != nil {
			rt.Fatal(err)
		}
		fn, _ := window.FnOf(ws)
		one, all := newRig(rt, s, fn), newRig(rt, s, fn)
		for _, tick := range drawTicks(rt, fn) {
			all.play(tick)
			if tick.key == "" {
				one.play(tick)
			}
			for i := range tick.items {
				// The output watermark doesn't move within a bundle.
				sent := one.now.Output
				one.add(tick.key, tick.items[i:i+1])
				if i+1 < len(tick.items) {
					one.now.Output = sent
				}
			}
		}
		if one.out.String() != all.out.String() {
			rt.Fatalf("trigger %s: one by one\n%s\ntogether\n%s", s.Trigger, &one.out, &all.out)
		}
	})
}

// BenchmarkSessions adds to one of 10,000 sessions of a key, which grows.
func BenchmarkSessions(b *testing.B) {
	tree, err := trigger.New(nil, trigger.Options{Merging: true})
	if err != nil {
		b.Fatal(err)
	}
	s := &pane.Strategy{Trigger: tree, Merging: window.MergeOverlap}
	var k pane.Key
	var ops []pane.Op
	now := pane.Now{Input: element.MinTimestamp, Output: element.MinTimestamp}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		at := element.Timestamp(i % 10_000 * 1000)
		at += element.Timestamp(i / 10_000)
		elems := []pane.Element{{Timestamp: at, Windows: []window.Window{{Start: at, End: at + 500}}}}
		if ops, err = s.Add(&k, now, elems, nil, ops[:0]); err != nil {
			b.Fatal(err)
		}
		s.Wake(&k)
		s.Hold(&k)
		i++
	}
}

// BenchmarkAdd adds elements to the windows of one key, as an engine would.
func BenchmarkAdd(b *testing.B) {
	tree, err := trigger.New(nil, trigger.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s := &pane.Strategy{Trigger: tree}
	var k pane.Key
	var ops []pane.Op
	now := pane.Now{Input: element.MinTimestamp, Output: element.MinTimestamp}
	w := []window.Window{{Start: 0, End: 10000}}
	elems := []pane.Element{{Timestamp: 5, Windows: w}}
	b.ReportAllocs()
	for b.Loop() {
		if ops, err = s.Add(&k, now, elems, nil, ops[:0]); err != nil {
			b.Fatal(err)
		}
		s.Wake(&k)
		s.Hold(&k)
	}
}
