package pane_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"trestle/element"
	"trestle/runner/pane"
	"trestle/runner/trigger/triggertest"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawTrigger draws a trigger, of those only that merging in the oracle knows
// if simple.
func drawTrigger(t *rapid.T, depth int, simple bool) string {
	leaves := []string{"default", "eow", "always", "never", "count(1)", "count(2)", "count(3)",
		"after(delay 3)", "after(delay 0, align 5+2)", "synchronized"}
	composites := []string{"repeat", "eow", "any", "all", "each", "orFinally"}
	if simple {
		composites = composites[:4]
	}
	if depth == 0 || rapid.Bool().Draw(t, "leaf") {
		return rapid.SampledFrom(leaves).Draw(t, "trigger")
	}
	sub := func() string { return drawTrigger(t, depth-1, simple) }
	// Where the oracle must merge what has begun anew, only what fires once.
	switch c := rapid.SampledFrom(composites).Draw(t, "composite"); c {
	case "repeat":
		return "repeat(" + sub() + ")"
	case "eow":
		var parts []string
		if rapid.Bool().Draw(t, "early") {
			parts = append(parts, "early="+sub())
		}
		if len(parts) == 0 || rapid.Bool().Draw(t, "late") {
			parts = append(parts, "late="+sub())
		}
		return "eow(" + strings.Join(parts, ", ") + ")"
	case "any", "all":
		if simple {
			return "repeat(" + c + "(" + sub() + ", " + sub() + "))"
		}
		return c + "(" + sub() + ", " + sub() + ")"
	default:
		return c + "(" + sub() + ", " + sub() + ")"
	}
}

// drawStrategy draws a windowing strategy.
func drawStrategy(t *rapid.T, tt *testing.T, kinds ...string) *pipepb.WindowingStrategy {
	kind := rapid.SampledFrom(kinds).Draw(t, "windows")
	ws := &pipepb.WindowingStrategy{
		AllowedLateness:  rapid.SampledFrom([]int64{0, 5, 20}).Draw(t, "lateness"),
		AccumulationMode: rapid.SampledFrom([]pipepb.AccumulationMode_Enum{1, 2}).Draw(t, "mode"),
		OutputTime:       rapid.SampledFrom([]pipepb.OutputTime_Enum{1, 2, 3}).Draw(t, "combiner"),
		ClosingBehavior:  rapid.SampledFrom([]pipepb.ClosingBehavior_Enum{1, 2}).Draw(t, "closing"),
		OnTimeBehavior:   rapid.SampledFrom([]pipepb.OnTimeBehavior_Enum{1, 2}).Draw(t, "ontime"),
	}
	if rapid.Bool().Draw(t, "usual") {
		ws.AllowedLateness = 20
	}
	name, size, _ := strings.Cut(kind, "=")
	windowFn(tt, ws, name, size)
	trigger := drawTrigger(t, 3, name == "sessions")
	if name == "sessions" && rapid.Bool().Draw(t, "both sides") {
		trigger = rapid.SampledFrom([]string{
			"eow(early=count(2), late=count(2))",
			"repeat(eow(early=after(delay 3), late=count(3)))",
			"eow(early=repeat(all(count(2), after(delay 2))), late=repeat(any(count(3), after(delay 3))))",
		}).Draw(t, "trigger")
	}
	ws.Trigger = triggertest.Parse(trigger)
	return ws
}

// drawTicks draws a history that ends with +inf.
func drawTicks(t *rapid.T, fn window.Fn) []tick {
	now := tick{input: element.MinTimestamp}
	var ticks []tick
	word := 0
	for range rapid.IntRange(1, 40).Draw(t, "ticks") {
		switch rapid.IntRange(0, 4).Draw(t, "tick") {
		case 0:
			now.input = max(now.input, 0) + element.Timestamp(rapid.SampledFrom([]int{1, 1, 2, 3, 5, 12}).Draw(t, "watermark"))
			ticks = append(ticks, now)
		case 1:
			now.clock += element.Timestamp(rapid.IntRange(1, 4).Draw(t, "clock"))
			now.sync = max(now.sync, now.clock-element.Timestamp(rapid.IntRange(0, 3).Draw(t, "behind")))
			ticks = append(ticks, now)
		default:
			add := tick{key: rapid.SampledFrom([]string{"x", "x", "x", "x", "y"}).Draw(t, "key")}
			for range rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "elements") {
				at := element.Timestamp(rapid.IntRange(0, 30).Draw(t, "at"))
				word++
				add.items = append(add.items, item{at: at, windows: fn.Assign(nil, at), word: fmt.Sprint(word)})
			}
			ticks = append(ticks, add)
		}
	}
	now.input = element.MaxTimestamp
	return append(ticks, now)
}

// play has the decider live through a history.
func (r *rig) play(t tick) {
	if t.key != "" {
		r.add(t.key, t.items)
		return
	}
	r.now.Input, r.now.Processing, r.now.Synchronized = t.input, t.clock, t.sync
	r.advance()
}

// sorted puts the elements of panes in order where merging has mixed them.
func sorted(panes []emitted) []emitted {
	out := slices.Clone(panes)
	for i := range out {
		out[i].Elements = slices.Sorted(slices.Values(out[i].Elements))
	}
	return out
}

// TestOracle compares the decider with the oracle, after each event of many
// histories.
func TestOracle(t *testing.T) {
	for _, kind := range []string{"fixed=10", "sliding=10/5", "sessions=5", "global"} {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { againstOracle(rt, t, kind) })
		})
	}
}

func againstOracle(t *rapid.T, tt *testing.T, kind string) {
	ws := drawStrategy(t, tt, kind)
	s, err := pane.StrategyOf(ws)
	if err != nil {
		t.Fatal(err)
	}
	if trigger := s.Trigger.String(); strings.HasSuffix(trigger, ", never)") && kind == "global" {
		t.Skip("the global window is left open")
	}
	fn, _ := window.FnOf(ws)
	ticks := drawTicks(t, fn)
	r := newRig(t, s, fn)
	var told strings.Builder
	for i, tick := range ticks {
		fmt.Fprintf(&told, "%+v\n", tick)
		r.play(tick)
		want := foretell(ws, fn, ticks[:i+1])
		diff := cmp.Diff(sorted(want.panes), sorted(r.panes))
		if diff != "" || want.drops != r.dropped || want.sent != r.now.Output {
			t.Fatalf("trigger %s: %d dropped instead of %d; output watermark %s instead of %s; panes (-want +got) %s\nafter\n%s\n%s",
				s.Trigger, r.dropped, want.drops, r.now.Output, want.sent, diff, &told, &r.out)
		}
	}
	if len(r.keys) > 0 || r.now.Output != element.MaxTimestamp {
		t.Fatalf("after the end %d keys are left, and the output watermark is %s", len(r.keys), r.now.Output)
	}
}

// TestBatchAndStream checks that the default trigger emits the same, whether all
// comes before the watermark moves at all or the watermark follows what comes,
// if nothing is late.
func TestBatchAndStream(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ws := drawStrategy(rt, t, "fixed=10", "sliding=10/5", "sessions=5", "global")
		ws.Trigger = triggertest.Parse(rapid.SampledFrom([]string{"default", "eow", "repeat(eow)", "never"}).Draw(rt, "trigger"))
		s, err := pane.StrategyOf(ws)
		if err != nil {
			rt.Fatal(err)
		}
		fn, _ := window.FnOf(ws)
		ticks := slices.DeleteFunc(drawTicks(rt, fn), func(t tick) bool { return t.key == "" })
		batch, stream := newRig(rt, s, fn), newRig(rt, s, fn)
		for i, tick := range ticks {
			batch.add(tick.key, tick.items)
			stream.add(tick.key, tick.items)
			least := element.MaxTimestamp
			for _, t := range ticks[i+1:] {
				for _, it := range t.items {
					least = min(least, it.at)
				}
			}
			stream.now.Input = max(stream.now.Input, least)
			stream.advance()
		}
		batch.now.Input, stream.now.Input = element.MaxTimestamp, element.MaxTimestamp
		batch.advance()
		stream.advance()
		if diff := cmp.Diff(contents(batch.panes), contents(stream.panes)); diff != "" || batch.dropped+stream.dropped > 0 {
			rt.Fatalf("%d and %d dropped; panes (-batch +stream) %s", batch.dropped, stream.dropped, diff)
		}
	})
}

// contents are what panes hold that aren't empty, in an order of their own.
func contents(panes []emitted) []string {
	var out []string
	for _, p := range sorted(panes) {
		if len(p.Elements) > 0 && p.Pane.Index == 0 {
			out = append(out, fmt.Sprint(p.Key, p.Window, p.Pane.Timing, p.Timestamp, p.Elements))
		}
	}
	slices.Sort(out)
	return out
}

// Of a blind strategy a key is the same, whether elements are added to it one
// after the other or in parts that are joined.
func TestJoin(t *testing.T) {
	blind := 0
	rapid.Check(t, func(rt *rapid.T) {
		ws := drawStrategy(rt, t, "fixed=10", "sliding=10/5", "global")
		s, err := pane.StrategyOf(ws)
		if err != nil {
			rt.Fatal(err)
		}
		if !s.Blind() {
			return
		}
		blind++
		fn, err := window.FnOf(ws)
		if err != nil {
			rt.Fatal(err)
		}
		now := pane.Now{Input: 0, Output: element.Timestamp(rapid.IntRange(-5, 0).Draw(rt, "output"))}
		var whole, joined, part pane.Key
		for range rapid.IntRange(1, 12).Draw(rt, "elements") {
			at := element.Timestamp(rapid.IntRange(0, 50).Draw(rt, "at"))
			elems := []pane.Element{{Timestamp: at, Windows: fn.Assign(nil, at)}}
			for _, k := range []*pane.Key{&whole, &part} {
				ops, err := s.Add(k, now, elems, nil, nil)
				if err != nil || slices.ContainsFunc(ops, func(op pane.Op) bool { return op.Kind != pane.Append }) {
					rt.Fatalf("%v, %v", ops, err)
				}
			}
			if rapid.Bool().Draw(rt, "join") {
				s.Join(&joined, &part)
				part = pane.Key{}
				if hold := s.Hold(&joined); hold != s.Hold(&whole) {
					rt.Fatalf("in parts it holds %s, whole %s", hold, s.Hold(&whole))
				}
			}
		}
		s.Join(&joined, &part)
		if got, want := s.Append(nil, &joined), s.Append(nil, &whole); !slices.Equal(got, want) {
			rt.Fatalf("joined parts are %x, the whole is %x", got, want)
		}
	})
	if blind == 0 {
		t.Error("no strategy was blind")
	}
}
