package window_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/element"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

func TestExpiry(t *testing.T) {
	const end = element.EndOfGlobalWindow
	for _, c := range []struct {
		w        window.Window
		lateness int64
		want     element.Timestamp
	}{
		{window.Window{Start: 0, End: 10}, 0, 9},
		{window.Window{Start: 0, End: 10}, 5, 14},
		{window.Window{Start: 0, End: 10}, -5, 9},
		{window.Window{Start: -20, End: -10}, 5, -6},
		{window.Window{Start: 0, End: 10}, math.MaxInt64, end},
		{window.Window{Start: element.MinTimestamp, End: element.MinTimestamp + 10}, math.MaxInt64, end},
		{window.Window{Start: 0, End: end}, 10, end},
		{window.Global, 10, end},
		{window.Opaque([]byte("x"), 9), 5, 14},
		{window.Opaque([]byte("x"), math.MaxInt64), 5, math.MaxInt64 - 1},
		{window.Opaque([]byte("x"), math.MinInt64), 0, math.MinInt64},
	} {
		if got := c.w.Expiry(c.lateness); got != c.want {
			t.Errorf("%s with %d: %s, want %s", c.w, c.lateness, got, c.want)
		}
		if !window.Passed(element.MaxTimestamp, c.w.Expiry(c.lateness)) {
			t.Errorf("%s outlives the last watermark", c.w)
		}
	}
}

func TestPassed(t *testing.T) {
	for _, at := range []element.Timestamp{element.MinTimestamp, -1, 0, 9, element.EndOfGlobalWindow, element.MaxTimestamp - 1, element.MaxTimestamp} {
		p := window.Passing(at)
		if !window.Passed(p, at) || p > element.MinTimestamp && p < element.MaxTimestamp && window.Passed(p-1, at) {
			t.Errorf("%s is not the least watermark that has passed %s", p, at)
		}
	}
}

// spec makes a strategy of a window function.
func spec(t *testing.T, urn string, payload proto.Message) *pipepb.WindowingStrategy {
	b, err := proto.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	return &pipepb.WindowingStrategy{WindowFn: &pipepb.FunctionSpec{Urn: urn, Payload: b}}
}

func TestAssign(t *testing.T) {
	s := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }
	fixed := spec(t, window.URNFixed, &pipepb.FixedWindowsPayload{Size: s(10), Offset: timestamppb.New(time.Unix(13, 0))})
	plain := spec(t, window.URNFixed, &pipepb.FixedWindowsPayload{Size: s(10)})
	sliding := spec(t, window.URNSliding, &pipepb.SlidingWindowsPayload{Size: s(10), Period: s(4)})
	holes := spec(t, window.URNSliding, &pipepb.SlidingWindowsPayload{Size: s(2), Period: s(5)})
	sessions := spec(t, window.URNSessions, &pipepb.SessionWindowsPayload{GapSize: s(10)})
	global := spec(t, window.URNGlobal, &pipepb.FixedWindowsPayload{})
	for _, c := range []struct {
		name string
		ws   *pipepb.WindowingStrategy
		at   element.Timestamp
		want string
	}{
		{"fixed", plain, 9999, "[0,10000)"},
		{"fixed", plain, 10000, "[10000,20000)"},
		{"fixed", plain, -1, "[-10000,0)"},
		{"with offset", fixed, 2999, "[-7000,3000)"},
		{"with offset", fixed, 3000, "[3000,13000)"},
		{"sliding", sliding, 9000, "[8000,18000) [4000,14000) [0,10000)"},
		{"sliding", sliding, -1, "[-4000,6000) [-8000,2000)"},
		{"with holes", holes, 1999, "[0,2000)"},
		{"with holes", holes, 2000, ""},
		{"sessions", sessions, 5, "[5,10005)"},
		{"sessions", sessions, element.MaxTimestamp, "[+inf,9223372036864775)"},
		{"global", global, 5, "global"},
	} {
		fn, err := window.FnOf(c.ws)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range fn.Assign(nil, c.at) {
			got = append(got, w.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s at %s: %s, want %s", c.name, c.at, got, c.want)
		}
	}
}

func TestFnOf(t *testing.T) {
	merge := func(ws *pipepb.WindowingStrategy, status pipepb.MergeStatus_Enum) *pipepb.WindowingStrategy {
		ws.MergeStatus = status
		return ws
	}
	gap := func() *pipepb.WindowingStrategy {
		return spec(t, window.URNSessions, &pipepb.SessionWindowsPayload{GapSize: durationpb.New(time.Second)})
	}
	custom := func() *pipepb.WindowingStrategy {
		return &pipepb.WindowingStrategy{WindowFn: &pipepb.FunctionSpec{Urn: "beam:window_fn:pickled_python:v1", Payload: []byte{1}}}
	}
	for _, c := range []struct {
		ws   *pipepb.WindowingStrategy
		kind window.Kind
		want window.Merging
	}{
		{merge(gap(), pipepb.MergeStatus_NEEDS_MERGE), window.SessionsKind, window.MergeOverlap},
		{merge(gap(), pipepb.MergeStatus_ALREADY_MERGED), window.SessionsKind, window.NoMerging},
		{merge(custom(), pipepb.MergeStatus_NEEDS_MERGE), window.CustomKind, window.MergeByTheirFn},
		{merge(custom(), pipepb.MergeStatus_NON_MERGING), window.CustomKind, window.NoMerging},
	} {
		fn, err := window.FnOf(c.ws)
		if err != nil || fn.Kind != c.kind || fn.Merging != c.want {
			t.Errorf("%v: %+v, %v", c.ws, fn, err)
		}
	}
	for want, ws := range map[string]*pipepb.WindowingStrategy{
		"must be positive":  spec(t, window.URNFixed, &pipepb.FixedWindowsPayload{}),
		"more than 1048576": spec(t, window.URNSliding, &pipepb.SlidingWindowsPayload{Size: durationpb.New(time.Hour), Period: durationpb.New(time.Millisecond)}),
		"is malformed":      {WindowFn: &pipepb.FunctionSpec{Urn: window.URNSessions, Payload: []byte{0xff}}},
	} {
		if _, err := window.FnOf(ws); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestOverlapping compares with the definition: two windows are in one if a
// chain of windows leads from one to the other of which neighbours share a time.
func TestOverlapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var windows []window.Window
		for range rapid.IntRange(0, 12).Draw(t, "windows") {
			start := element.Timestamp(rapid.IntRange(0, 60).Draw(t, "start"))
			windows = append(windows, window.Window{Start: start, End: start + element.Timestamp(rapid.IntRange(0, 9).Draw(t, "length"))})
		}
		into := map[window.Window]window.Window{}
		merges := window.Overlapping(windows)
		distinct := slices.Clone(windows)
		slices.SortFunc(distinct, window.Window.Compare)
		distinct = slices.Compact(distinct)
		if err := window.Check(distinct, merges); err != nil {
			t.Fatal(err)
		}
		for _, m := range merges {
			lo, hi := m.From[0].Start, m.From[0].End
			for _, w := range m.From {
				into[w] = m.Into
				lo, hi = min(lo, w.Start), max(hi, w.End)
			}
			if (m.Into != window.Window{Start: lo, End: hi}) || len(m.From) < 2 || !slices.IsSortedFunc(m.From, window.Window.Compare) {
				t.Fatalf("%v", m)
			}
		}
		for _, w := range distinct {
			chain := reach(distinct, w)
			for _, v := range distinct {
				same := into[w] == into[v] && into[w] != window.Window{} || w == v
				if same != slices.Contains(chain, v) {
					t.Fatalf("%s and %s: together %t, of %v", w, v, same, distinct)
				}
			}
		}
	})
}

func reach(windows []window.Window, from window.Window) []window.Window {
	chain := []window.Window{from}
	for i := 0; i < len(chain); i++ {
		for _, w := range windows {
			shares := max(w.Start, chain[i].Start) < min(w.End, chain[i].End) ||
				// An empty window within another is part of it.
				w.Start == w.End && chain[i].Start < w.Start && w.Start < chain[i].End ||
				chain[i].Start == chain[i].End && w.Start < chain[i].Start && chain[i].Start < w.End
			if shares && !slices.Contains(chain, w) {
				chain = append(chain, w)
			}
		}
	}
	return chain
}

func TestCheck(t *testing.T) {
	a, b, c, d := window.Opaque([]byte("a"), 1), window.Opaque([]byte("b"), 2), window.Opaque([]byte("c"), 3), window.Opaque([]byte("d"), 4)
	of := func(into window.Window, from ...window.Window) window.Merge {
		return window.Merge{Into: into, From: from}
	}
	for i, test := range []struct {
		merges []window.Merge
		want   string
	}{
		{nil, ""},
		{[]window.Merge{of(b, a, b)}, ""},
		{[]window.Merge{of(d, a, b)}, ""},
		{[]window.Merge{of(d, a)}, ""},
		{[]window.Merge{of(a, b), of(b, a)}, "given"},
		{[]window.Merge{of(c, a, b)}, "which it was given, of other windows"},
		{[]window.Merge{of(d, a, b), of(c, b, c)}, "twice"},
		{[]window.Merge{of(d, a), of(d, b)}, "made"},
		{[]window.Merge{of(a, a, d)}, "not given"},
		{[]window.Merge{of(d)}, "of no window"},
	} {
		err := window.Check([]window.Window{a, b, c}, test.merges)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%d: %v, want %q", i, err, test.want)
		}
	}
	if fmt.Sprint(a) != `"a" until 1` {
		t.Error(a)
	}
}
