package task

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/state"
	"trestle/runner/watermark"
	"trestle/runner/window"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// What is left of restrictions waits for its delay, and holds the watermark where
// its DoFn says that it is, or, if nobody has touched it, where it was.
func TestPark(t *testing.T) {
	s := &stream{marks: watermark.NewTracker(1), job: &streamJob{played: true, now: 1000}}
	known, other := []byte("known"), []byte("other")
	for _, test := range []struct {
		rest bundle.Residual
		hold element.Timestamp
		next element.Timestamp
	}{
		{bundle.Residual{Element: known, Watermark: 12, Delay: 500 * time.Millisecond}, 12, 1500},
		{bundle.Residual{Element: known, Watermark: element.MinTimestamp}, element.MinTimestamp, element.MinTimestamp},
		{bundle.Residual{Element: known, Untouched: true}, 7, element.MinTimestamp},
		{bundle.Residual{Element: other, Untouched: true}, 3, element.MinTimestamp},
	} {
		r := &restrictions{s: s, pool: &restrictionPool{}, took: map[*byte]element.Timestamp{&known[0]: 7}, hold: 3}
		r.park([]bundle.Residual{test.rest})
		took := r.pool.takeAll(r)
		if len(took) != 1 || took[0].hold != test.hold || took[0].slot.at != test.next {
			t.Errorf("%+v waits as %+v", test.rest, took)
		}
	}
	s.marks.Advance(0, watermark.Mark{Watermark: 20})
	if m, _ := s.marks.Settle(20); m.Watermark != element.MinTimestamp {
		t.Errorf("the watermark is at %s", m.Watermark)
	}
}

// A task takes from another one that is busy, unless it has promised more.
func TestMayTake(t *testing.T) {
	p := &restrictionPool{}
	floor := watermark.Mark{Watermark: 5}
	for _, test := range []struct {
		busy bool
		said element.Timestamp
		may  bool
	}{{true, 4, true}, {true, 5, true}, {true, 6, false}, {false, 4, false}} {
		r, m := &restrictions{said: test.said}, &restrictions{busy: test.busy, floor: floor}
		if p.mayTake(r, m) != test.may {
			t.Errorf("%+v: it is not so", test)
		}
	}
	if m := (&restrictions{busy: true, floor: floor}); p.mayTake(m, m) {
		t.Error("it takes from itself")
	}
}

// A bundle that gave nothing until it was cut off may run longer the next time,
// within bounds; and no longer when it gave something.
func TestNextCheckpoint(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		every, now, took time.Duration
		gave             int64
		want             time.Duration
	}{
		{s, s, s, 0, 2 * s}, {s, 8 * s, 9 * s, 0, 10 * s}, {s, 8 * s, 9 * s, 1, s}, {s, 8 * s, 7 * s, 0, s}, {20 * s, 20 * s, 21 * s, 0, 20 * s},
	} {
		if got := nextCheckpoint(test.every, test.now, test.took, &bundle.Result{OutElements: test.gave}); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// Marks are read as they were written.
func TestMarkCodec(t *testing.T) {
	for _, m := range []watermark.Mark{watermark.Start, watermark.End, {Watermark: 5}, {Watermark: 5, Idle: true}} {
		if got, err := decodeMark(encodeMark(m)); got != m || err != nil {
			t.Errorf("%v was read as %v: %v", m, got, err)
		}
	}
}

// Windows of a side input are forgotten when nobody can look at them any more,
// and not before; what comes for one later is forgotten at once.
func TestSideWindowsGo(t *testing.T) {
	g := newTestGrouping(t, 64<<20)
	g.s.r.prog.Stream.LatenessMillis = 5
	l := &liveSide{
		s: g.s, w: g.w, how: bundle.SideWindows{Fn: window.Fn{Kind: window.FixedKind, Size: 10}},
		windows: map[string]*sideWindow{}, marks: watermark.NewTracker(1),
	}
	g.s.sides = map[bundle.SideKey]*liveSide{{Transform: "Look"}: l}
	put := func(start element.Timestamp) {
		b := coders.AppendHeader(nil, start, 1, encodeWindow(nil, g.w, window.Window{Start: start, End: start + 10}), coders.NoFiring)
		if err := l.add(append(append(b, appendBytes(nil, []byte("k"))...), appendBytes(nil, []byte("v"))...)); err != nil {
			t.Fatal(err)
		}
	}
	has := func(want string) {
		t.Helper()
		got := ""
		for start := element.Timestamp(0); start < 30; start += 10 {
			if l.windows[string(encodeWindow(nil, g.w, window.Window{Start: start, End: start + 10}))] != nil {
				got += fmt.Sprint(start, " ")
			}
		}
		if got != want {
			t.Errorf("at %s there are windows %s, want %s", g.s.told.Watermark, got, want)
		}
	}
	put(0)
	put(10)
	put(20)
	g.says(t, watermark.Mark{Watermark: 14})
	has("0 10 20 ")
	g.says(t, watermark.Mark{Watermark: 15})
	has("10 20 ")
	put(0)
	has("10 20 ")
	g.says(t, watermark.Mark{Watermark: 25})
	has("20 ")
}

// The state of a window that has expired goes, whether its key has its length in
// front, as timers have it, or not, as some SDKs ask for state.
func TestStateOfExpiredWindowsGoes(t *testing.T) {
	timers := newTestTimers(t, 4<<20)
	s := timers.s
	opt := state.Options{Budget: s.r.m.cfg.Budget, Declared: map[string][]string{"T": {"s"}}}
	s.state = state.NewKeyed(opt, s.r.m.store, s.r.keyGroup)
	defer func() {
		if err := s.state.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i, key := range slices.Repeat([]string{"\x03key", "key"}, 50) {
		at, code := element.Timestamp(i), fmt.Sprint("w", i)
		timers.put(timers.of([]byte("\x03key")), &streamTimer{at: at, rank: rankDrop, family: -1, hold: element.MaxTimestamp, window: code, id: code})
		b := s.state.Bundle()
		id := &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
			TransformId: "T", UserStateId: "s", Key: []byte(key), Window: []byte(code),
		}}}
		if err := errors.Join(b.Append(t.Context(), id, make([]byte, 100<<10)), b.Commit()); err != nil {
			t.Fatal(err)
		}
		s.marks.Advance(0, watermark.Mark{Watermark: at})
		if did, err := timers.fire(t.Context(), at); !did || err != nil {
			t.Fatal(did, err)
		}
		if err := s.state.Trim(); err != nil {
			t.Fatal(err)
		}
		if n := s.r.m.cfg.Budget.Used(); n > 1<<20 {
			t.Fatalf("%d bytes are in memory after %d windows", n, i+1)
		}
	}
	if s.r.m.cfg.Budget.SpilledBytes() > 0 {
		t.Error("state of expired windows went to disk")
	}
}
