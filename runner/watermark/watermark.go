// Package watermark does the arithmetic of watermarks.
//
// A watermark says that nothing with an earlier timestamp will come. A Tracker
// keeps the two watermarks of one stage, or one task of it. The input watermark
// is the least of its inputs'. The output watermark is what the stage promises
// to those behind it: the input watermark for which all is done that had to be
// done by then (timers fired, bundles committed), and never more than the least
// hold, which is the time of something that is still to come out: a pane, a
// timer's output, the rest of a source.
//
// Both watermarks only ever rise, whatever inputs and holds do. An input that
// has nothing to say for a while is idle and doesn't keep the others waiting;
// when it speaks again, it may be behind, and what it brings is late. An input
// that has ended is at +inf.
//
// Marks travel in the channels of data, behind the data that they cover. A
// reader takes the least of what the channels say.
//
// The same arithmetic serves synchronized processing time, whose inputs are the
// clocks of the stages upstream.
package watermark

import (
	"slices"

	"trestle/element"
	"trestle/internal/invariant"
)

// A Mark is what a channel says of the data to come.
type Mark struct {
	Watermark element.Timestamp
	// Idle says not to wait for this channel until it speaks again.
	Idle bool
}

// Start is what a channel says that has said nothing yet.
var Start = Mark{Watermark: element.MinTimestamp}

// End is the last thing that a channel says.
var End = Mark{Watermark: element.MaxTimestamp}

// Least is the mark of several channels that are read as one: the least of
// those that aren't idle. If all that haven't ended are idle, so is the whole,
// at the greatest of their watermarks: what the last of them has promised is
// as far as time got. It is the End only when all have ended, or there are none.
func Least(marks ...Mark) Mark {
	least, idle := End, Mark{Watermark: element.MinTimestamp}
	for _, m := range marks {
		if m.Idle {
			idle = Mark{Watermark: max(idle.Watermark, m.Watermark), Idle: true}
		} else {
			least.Watermark = min(least.Watermark, m.Watermark)
		}
	}
	if least == End && idle.Idle {
		return idle
	}
	return least
}

// A Tracker keeps the watermarks of a stage. It is not safe for concurrent use.
type Tracker struct {
	inputs  []Mark
	input   element.Timestamp // never falls
	idle    bool              // all inputs are idle
	settled element.Timestamp // never falls; <= input
	output  element.Timestamp // never falls; <= settled; <= least of holds when it rose
	holds   Holds
}

// NewTracker makes a tracker of so many inputs that have said nothing yet. A
// stage without inputs has had all of it.
func NewTracker(inputs int) *Tracker {
	t := &Tracker{
		inputs: slices.Repeat([]Mark{Start}, inputs),
		input:  element.MinTimestamp, settled: element.MinTimestamp, output: element.MinTimestamp,
	}
	t.update()
	return t
}

// Advance notes what an input says. A watermark that is less than what the
// input said before changes nothing but that it isn't idle any more. It reports
// whether the input watermark rose.
func (t *Tracker) Advance(input int, m Mark) bool {
	was := t.inputs[input].Watermark
	m.Watermark = max(m.Watermark, was)
	// One that has ended has nothing more to say.
	m.Idle = m.Idle && m.Watermark < element.MaxTimestamp
	t.inputs[input] = m
	return t.update()
}

// update derives the input watermark.
func (t *Tracker) update() bool {
	least := Least(t.inputs...)
	t.idle = least.Idle
	if least.Watermark <= t.input {
		return false
	}
	t.input = least.Watermark
	return true
}

// Input is the input watermark: by it elements are late and windows end.
func (t *Tracker) Input() element.Timestamp { return t.input }

// Output is the output watermark.
func (t *Tracker) Output() element.Timestamp { return t.output }

// Hold keeps the output watermark from passing at until it is released. One
// that is behind the output watermark already can't lower it.
func (t *Tracker) Hold(at element.Timestamp) { t.holds.Add(at) }

// Release takes back one Hold.
func (t *Tracker) Release(at element.Timestamp) { t.holds.Remove(at) }

// Settle notes that all that had to be done at an input watermark is done, and
// all that it held is held. Then the output watermark may follow. It returns
// what to say downstream, and whether that is new.
func (t *Tracker) Settle(watermark element.Timestamp) (Mark, bool) {
	invariant.Check(watermark <= t.input, "a stage has settled %s, but its input is at %s", watermark, t.input)
	before := t.Mark()
	t.settled = max(t.settled, watermark)
	t.output = max(t.output, min(t.settled, t.holds.Least()))
	after := t.Mark()
	return after, after != before
}

// Ready is what the stage could say if all of its input was settled.
func (t *Tracker) Ready() Mark {
	least := t.holds.Least()
	at := max(t.output, min(t.input, least))
	return Mark{Watermark: at, Idle: t.idle && least >= element.MaxTimestamp && at < element.MaxTimestamp}
}

// Mark is what the stage says downstream. It is idle when all inputs are, and
// nothing is settled or held that could still come out.
func (t *Tracker) Mark() Mark {
	idle := t.idle && t.settled == t.input && t.holds.Least() >= element.MaxTimestamp
	return Mark{Watermark: t.output, Idle: idle && t.output < element.MaxTimestamp}
}
