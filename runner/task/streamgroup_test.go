package task

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/jobgraph"
	"trestle/runner/pane"
	"trestle/runner/state"
	"trestle/runner/watermark"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// newTestGrouping groups in fixed windows of 10 ms, for a stream of no inputs but
// what the test says.
func newTestGrouping(t *testing.T, memory int64, edit ...func(*pipepb.WindowingStrategy)) *grouping {
	t.Helper()
	table := coders.NewTable(map[string]*pipepb.Coder{
		"b":  {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
		"kv": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"}, ComponentCoderIds: []string{"b", "b"}},
		"w":  {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:interval_window:v1"}},
	})
	kv, err := table.Coder("kv")
	if err != nil {
		t.Fatal(err)
	}
	w, err := table.Coder("w")
	if err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(&pipepb.FixedWindowsPayload{Size: durationpb.New(10 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	ws := &pipepb.WindowingStrategy{
		WindowFn:         &pipepb.FunctionSpec{Urn: "beam:window_fn:fixed_windows:v1", Payload: payload},
		Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
	}
	for _, e := range edit {
		e(ws)
	}
	panes, err := pane.StrategyOf(ws)
	if err != nil {
		t.Fatal(err)
	}
	budget := membudget.New(memory)
	m := &TaskManager{cfg: Config{Budget: budget}, store: state.NewStore(t.TempDir(), budget)}
	s := &stream{
		r:     &run{m: m, live: &counts{}, prog: &bundle.Program{Node: &jobgraph.Stage{}, Stream: &bundle.Stream{Panes: panes}}},
		marks: watermark.NewTracker(1), told: watermark.Start,
		job: &streamJob{played: true, now: 1000},
	}
	g := newGrouping(s)
	s.root = g
	t.Cleanup(func() {
		if err := errors.Join(g.close(), m.store.Close()); err != nil {
			t.Error(err)
		}
	})
	g.w = coders.NewWindowed(kv, w)
	return g
}

// put adds an element of the window that begins at the time given.
func (g *grouping) put(t *testing.T, key, value string, start element.Timestamp) {
	t.Helper()
	win := encodeWindow(nil, g.w, window.Window{Start: start, End: start + 10})
	b := coders.AppendHeader(nil, start, 1, win, coders.NoFiring)
	b = append(append(b, appendBytes(nil, []byte(key))...), appendBytes(nil, []byte(value))...)
	if err := g.add(t.Context(), b, 1); err != nil {
		t.Fatal(err)
	}
}

// The end of a window is told before the watermark goes on, also to keys that
// are on disk but for what has come since.
func TestGroupsInParts(t *testing.T) {
	g := newTestGrouping(t, 1<<20)
	const keys = 3
	for i := range keys {
		g.put(t, fmt.Sprint("key", i), strings.Repeat("x", 1<<20), 0)
	}
	for range 3 {
		if err := g.trim(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		if key := fmt.Sprint("key", i); g.keys.part(append([]byte{4}, key...)) != nil {
			t.Fatalf("%s is not on disk", key)
		}
		g.put(t, fmt.Sprint("key", i), "y", 20)
	}
	for _, at := range []element.Timestamp{10, 30} {
		g.s.marks.Advance(0, watermark.Mark{Watermark: at})
		if n := g.steps(t); n != keys {
			t.Errorf("%d panes when the watermark has passed the window that ends at %s, want %d", n, at, keys)
		}
	}
}

// What comes when a window has ended, and before its key was told, doesn't make a
// pane of what happens to be in memory.
func TestGroupsInPartsToldLate(t *testing.T) {
	for _, start := range []element.Timestamp{0, 20} {
		g := newTestGrouping(t, 1<<20, func(ws *pipepb.WindowingStrategy) { ws.AllowedLateness = 100 })
		g.fill(t, true, 0)
		if start > 0 { // else nothing of the key is in memory
			g.put(t, "key0", "y", 0)
		}
		g.s.marks.Advance(0, watermark.Mark{Watermark: 10})
		g.put(t, "key0", "z", start)
		if n := len(g.s.batch.chunk); n < 1<<20 {
			t.Errorf("an element of the window at %s made panes of %d bytes", start, n)
		}
	}
}
