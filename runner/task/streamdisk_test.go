package task

import (
	"fmt"
	"strings"
	"testing"

	"trestle/element"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/jobgraph"
	"trestle/runner/state"
	"trestle/runner/trigger/triggertest"
	"trestle/runner/watermark"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const diskKeys = 3

// fill puts a large value for each key at a time, and all on disk if wanted.
func (g *grouping) fill(t *testing.T, onDisk bool, at element.Timestamp) {
	t.Helper()
	for i := range diskKeys {
		g.put(t, fmt.Sprint("key", i), strings.Repeat("x", 1<<20), at)
	}
	if onDisk {
		leave(t, g.trim)
		if n := len(g.event.items); n > 0 {
			t.Fatalf("%d keys are in memory still", n)
		}
	}
}

// leave has keys leave memory.
func leave(t *testing.T, trim func() error) {
	t.Helper()
	for range 3 {
		if err := trim(); err != nil {
			t.Fatal(err)
		}
	}
}

// steps does all that is ripe, and tells how many panes came of it.
func (g *grouping) steps(t *testing.T) int {
	t.Helper()
	for {
		did, err := g.step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !did {
			n := g.s.batch.count
			g.s.batch = batchOut{}
			return n
		}
	}
}

// says is what the task says downstream when its input has said m.
func (g *grouping) says(t *testing.T, m watermark.Mark) string {
	t.Helper()
	g.s.marks.Advance(0, m)
	if err := g.s.tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(g.s.told.Watermark, " ", g.s.told.Idle)
}

func inMemoryAndOnDisk(t *testing.T, test func(t *testing.T, memory int64, onDisk bool)) {
	t.Run("memory", func(t *testing.T) { test(t, 256<<20, false) })
	t.Run("disk", func(t *testing.T) { test(t, 1<<20, true) })
}

// Who has groups that will come out isn't idle, though all of its input is.
func TestGroupsAreNotIdle(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, memory int64, onDisk bool) {
		g := newTestGrouping(t, memory)
		if said := g.says(t, watermark.Mark{Watermark: -5, Idle: true}); said != "-5 true" {
			t.Errorf("without groups it says %s", said)
		}
		g.fill(t, onDisk, 0)
		if said := g.says(t, watermark.Mark{Watermark: 5, Idle: true}); said != "5 false" {
			t.Errorf("with groups it says %s", said)
		}
		g.put(t, "key0", "more", 0)
		g.s.marks.Advance(0, watermark.Mark{Watermark: 10, Idle: true})
		if n := g.steps(t); n != diskKeys {
			t.Errorf("%d panes, want %d", n, diskKeys)
		}
		if said := g.says(t, watermark.Mark{Watermark: 10, Idle: true}); said != "10 true" || g.s.due != 0 {
			t.Errorf("with no groups any more it says %s; %d are due", said, g.s.due)
		}
	})
}

// Groups keep the watermark back to the earliest of their elements until they
// have come out, wherever they are.
func TestGroupsHold(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, memory int64, onDisk bool) {
		g := newTestGrouping(t, memory, func(ws *pipepb.WindowingStrategy) { ws.OutputTime = pipepb.OutputTime_EARLIEST_IN_PANE })
		g.fill(t, onDisk, 0)
		if said := g.says(t, watermark.Mark{Watermark: 5}); said != "0 false" {
			t.Errorf("before they come out it says %s", said)
		}
		g.s.marks.Advance(0, watermark.Mark{Watermark: 10})
		if n := g.steps(t); n != diskKeys {
			t.Errorf("%d panes, want %d", n, diskKeys)
		}
		leave(t, g.trim)
		if said := g.says(t, watermark.Mark{Watermark: 12}); said != "12 false" {
			t.Errorf("when they have come out it says %s", said)
		}
	})
}

// Groups that wait for the clock are told of it, wherever they are, and the clock
// knows that they wait.
func TestGroupsWaitForTheClock(t *testing.T) {
	for _, trigger := range []string{"repeat(after(delay 500))", "repeat(synchronized)"} {
		inMemoryAndOnDisk(t, func(t *testing.T, memory int64, onDisk bool) {
			g := newTestGrouping(t, memory, func(ws *pipepb.WindowingStrategy) { ws.Trigger = triggertest.Parse(trigger) })
			if g.next() != element.MaxTimestamp {
				t.Errorf("%s: it waits for %s without groups", trigger, g.next())
			}
			g.fill(t, onDisk, 0)
			next := g.next()
			if next != 1500 && next != 1001 {
				t.Errorf("%s: it waits for %s", trigger, next)
			}
			if g.s.job.now = next - 1; g.steps(t) != 0 {
				t.Errorf("%s: panes came too early", trigger)
			}
			if g.s.job.now = next; g.steps(t) != diskKeys {
				t.Errorf("%s: panes didn't come in time", trigger)
			}
			if g.next() != element.MaxTimestamp {
				t.Errorf("%s: it waits for %s after all", trigger, g.next())
			}
		})
	}
}

// What is due when an element comes is done before it counts.
func TestGroupsDueBeforeMore(t *testing.T) {
	g := newTestGrouping(t, 256<<20, func(ws *pipepb.WindowingStrategy) { ws.Trigger = triggertest.Parse("repeat(after(delay 500))") })
	g.put(t, "key0", "x", 0)
	g.s.job.now = 1500
	g.put(t, "key0", "z", 0)
	if n, next := g.steps(t), g.next(); n != 1 || next != 2000 {
		t.Errorf("%d panes, and the next element waits until %s, want 1 and 2000", n, next)
	}
}

// newTestTimers are timers of a stream of no inputs but what the test says: of
// one family of event time, and of one of processing time.
func newTestTimers(t *testing.T, memory int64) *streamTimers {
	t.Helper()
	budget := membudget.New(memory)
	m := &TaskManager{cfg: Config{Budget: budget}, store: state.NewStore(t.TempDir(), budget)}
	s := &stream{
		r: &run{m: m, prog: &bundle.Program{
			Node: &jobgraph.Stage{}, Stream: &bundle.Stream{}, Families: []bundle.Family{{ID: "t"}, {ID: "p", ProcessingTime: true}},
		}},
		marks: watermark.NewTracker(1), job: &streamJob{played: true, now: 1000},
	}
	timers := newStreamTimers(s)
	t.Cleanup(func() {
		if err := timers.keys.table.Close(); err != nil {
			t.Error(err)
		}
		if err := m.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return timers
}

// pulled takes the timers that are ripe, until there are none, and gives the ids
// of one key's.
func (t *streamTimers) pulled(key string, watermark, clock element.Timestamp) string {
	var ids []string
	for {
		var f firing
		t.pull(&f, &t.event, watermark)
		t.pull(&f, &t.processing, clock)
		if len(f.timers) == 0 && !t.keys.wake(watermark, clock, element.MinTimestamp) {
			return strings.Join(ids, " ")
		}
		for i, x := range f.timers {
			if f.keys[i].Key() == key {
				ids = append(ids, x.id)
			}
			if x.hold < element.MaxTimestamp {
				t.s.marks.Release(x.hold)
			}
			t.settle(f.keys[i])
		}
	}
}

// Timers come in their order and hold the watermark back, wherever they are.
func TestTimersWait(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, memory int64, onDisk bool) {
		timers := newTestTimers(t, memory)
		for i := range diskKeys {
			for _, x := range []streamTimer{
				{id: "late", at: 30, hold: 25}, {id: "b", at: 20, hold: 15}, {id: "a", at: 20, hold: 18},
				{id: "clock", family: 1, at: 1500, hold: element.MaxTimestamp}, {id: "drop", at: 20, family: -1, rank: rankDrop, hold: element.MaxTimestamp},
			} {
				x.raw = make([]byte, 1<<20)
				timers.put(timers.of(fmt.Append(nil, "key", i)), &x)
			}
		}
		if onDisk {
			leave(t, timers.keys.trim)
			if len(timers.event.items) > 0 || timers.keys.next() != 1500 {
				t.Fatalf("%d keys are in memory still; the next timer is at %s", len(timers.event.items), timers.keys.next())
			}
		}
		output := func(input element.Timestamp) element.Timestamp {
			timers.s.marks.Advance(0, watermark.Mark{Watermark: input})
			m, _ := timers.s.marks.Settle(input)
			return m.Watermark
		}
		if at := output(19); at != 15 {
			t.Errorf("the watermark is at %s before they come", at)
		}
		if got := timers.pulled("key1", 19, 1499); got != "" {
			t.Errorf("%s came too early", got)
		}
		if got := timers.pulled("key1", 20, 1499); got != "b a drop" {
			t.Errorf("there came %q", got)
		}
		leave(t, timers.keys.trim)
		if at := output(28); at != 25 {
			t.Errorf("the watermark is at %s when the first have come", at)
		}
		if got := timers.pulled("key1", 28, 1500); got != "clock" {
			t.Errorf("by the clock there came %q", got)
		}
		if got := timers.pulled("key1", 30, 1500); got != "late" || timers.keys.table.Len() != 0 {
			t.Errorf("at last there came %q; %d keys are left", got, timers.keys.table.Len())
		}
		leave(t, timers.keys.trim)
		if at := output(31); at != 31 {
			t.Errorf("the watermark is at %s when all have come", at)
		}
	})
}
