// Package pane decides which elements of one key are emitted together, when,
// and as what pane.
//
// A Strategy is a windowing strategy of Beam's model as far as a grouping is
// concerned. It drives a Key, which is what must be remembered of one key: its
// windows, the state of their triggers, the panes that they have fired. A Key
// never holds an element: the decider answers with operations (append element 3
// to the buffer of this window, merge these buffers, emit that one as this
// pane), which whoever keeps the bytes carries out in order. Where windows
// don't merge, each window of a key may as well have a Key of its own.
//
// There are two events. Add brings elements, of which only timestamps and
// windows are told. Advance says that the watermark or a clock has moved; it
// need only be called when one has reached what Key.Wake asked for. After each
// of them, Key.Hold is what the output watermark must not pass. Batch is Add of
// everything and then Advance to +inf; so is the end of a drained job.
//
// The order in which things are decided: windows merge first, then it is seen
// what is late, then triggers are asked, after each element, so that counts are
// exact however elements were bundled; expired windows give their last pane and
// are forgotten. A late element is dropped if the window that it would have
// become part of has expired, not already because its own would have, and if
// that window's trigger has finished.
//
// Beam's model leaves open what becomes of elements after a trigger has
// finished that only waits for processing time. They are dropped, as after
// every trigger that has finished, but for the global window, of which all the
// rest would be lost: there they are in the last pane.
//
// What triggers mean is package trigger's business, what windows are package
// window's. Nothing here knows a clock, waits, or keeps anything but the Key.
package pane

import (
	"fmt"
	"math"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Combiner says which timestamp a pane gets.
type Combiner uint8

// Beam's timestamp combiners.
const (
	EndOfWindow Combiner = iota
	Earliest             // of the pane's elements that weren't late
	Latest
)

// A Strategy says how a key's elements become panes. It is immutable and safe
// for concurrent use.
type Strategy struct {
	Trigger *trigger.Tree
	Merging window.Merging
	// Accumulating panes hold all elements of their window so far; discarding
	// ones those since the last.
	Accumulating bool
	Combiner     Combiner
	// LatenessMillis is how long a window lives after its end.
	LatenessMillis int64
	// FinalAlways wants a last pane, and OnTimeAlways an on-time pane, even
	// where there is nothing new to emit.
	FinalAlways, OnTimeAlways bool
}

// StrategyOf reads a windowing strategy.
func StrategyOf(ws *pipepb.WindowingStrategy) (*Strategy, error) {
	fn, err := window.FnOf(ws)
	if err != nil {
		return nil, err
	}
	s := &Strategy{
		Merging:        fn.Merging,
		Accumulating:   ws.GetAccumulationMode() == pipepb.AccumulationMode_ACCUMULATING,
		LatenessMillis: min(max(ws.GetAllowedLateness(), 0), math.MaxInt64/1000),
		FinalAlways:    ws.GetClosingBehavior() == pipepb.ClosingBehavior_EMIT_ALWAYS,
		OnTimeAlways:   ws.GetOnTimeBehavior() == pipepb.OnTimeBehavior_FIRE_ALWAYS,
	}
	if ws.GetAccumulationMode() == pipepb.AccumulationMode_RETRACTING {
		return nil, fmt.Errorf("panes in retracting mode are not supported; use discarding or accumulating mode")
	}
	switch ws.GetOutputTime() {
	case pipepb.OutputTime_EARLIEST_IN_PANE:
		s.Combiner = Earliest
	case pipepb.OutputTime_LATEST_IN_PANE:
		s.Combiner = Latest
	}
	s.Trigger, err = trigger.New(ws.GetTrigger(), trigger.Options{
		Merging: s.Merging != window.NoMerging,
		Open:    fn.Kind == window.GlobalKind,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// combine is the timestamp of a pane with elements at a and at b.
func (s *Strategy) combine(a, b element.Timestamp) element.Timestamp {
	if s.Combiner == Latest {
		return max(a, b)
	}
	return min(a, b)
}
