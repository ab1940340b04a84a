// Package window knows windows: how long they live, how they are assigned, and
// which of them merge.
//
// A Window is a small value that can be compared and used as a map's key. An
// interval is known by its bounds; a window of an SDK's own kind only by its
// encoding and its last timestamp, which Beam's custom_window coder tells the
// runner. A window is over when the watermark has passed its last timestamp,
// and expires when the watermark has passed that plus the allowed lateness.
//
// Merging is a matter of a whole set of windows: Overlapping tells which of
// them become one by the rule of sessions, and Check whether an SDK's own
// answer makes sense. Nothing is merged here; whoever holds state of the
// windows (package pane) merges it.
//
// Bytes of windows are package coders' business.
package window

import (
	"cmp"
	"fmt"
	"math"

	"trestle/element"
)

// A Window is a set of timestamps with an end. Windows are equal (==) if they
// are the same interval or have the same encoding.
type Window struct {
	// Start and End bound the window [Start, End). Of a window with a Code only
	// the end is known, and Start is 0.
	Start, End element.Timestamp
	// Code is the encoding of a window that only its SDK understands, else
	// empty.
	Code string
}

// Global is the one window of Beam's global windowing.
var Global = Window{Start: element.MinTimestamp, End: element.EndOfGlobalWindow + 1}

// Interval is the window of an interval.
func Interval(i element.Interval) Window { return Window{Start: i.Start, End: i.End} }

// Opaque is the window with that encoding and that last timestamp.
func Opaque(code []byte, last element.Timestamp) Window {
	end := last
	if end < math.MaxInt64 {
		end++
	}
	return Window{End: end, Code: string(code)}
}

// MaxTimestamp is the last timestamp that belongs to the window.
func (w Window) MaxTimestamp() element.Timestamp {
	if w.End == math.MinInt64 {
		return w.End
	}
	return w.End - 1
}

// Interval is the window as an interval. It has a meaning only if w has no
// Code.
func (w Window) Interval() element.Interval {
	return element.Interval{Start: w.Start, End: w.End}
}

// Compare orders windows by their ends, then by their starts, then by their
// encodings.
func (w Window) Compare(v Window) int {
	if c := cmp.Compare(w.End, v.End); c != 0 {
		return c
	}
	if c := cmp.Compare(w.Start, v.Start); c != 0 {
		return c
	}
	return cmp.Compare(w.Code, v.Code)
}

// String prints an interval by its bounds, and another window by its encoding
// and its last timestamp.
func (w Window) String() string {
	switch {
	case w == Global:
		return "global"
	case w.Code != "":
		return fmt.Sprintf("%q until %s", w.Code, w.MaxTimestamp())
	}
	return fmt.Sprintf("[%s,%s)", w.Start, w.End)
}

// Expiry is the last time at which the window lives: when the watermark has
// passed it, what comes for the window is dropped and its state is cleared. It
// is the window's last timestamp plus the allowed lateness, but no later than
// the end of the global window unless the window itself is.
func (w Window) Expiry(latenessMillis int64) element.Timestamp {
	last := w.MaxTimestamp()
	if last >= element.EndOfGlobalWindow {
		return last
	}
	// The sum can't overflow: the end of the global window is far from it.
	if latenessMillis >= int64(element.EndOfGlobalWindow)-int64(max(last, 0)) {
		return element.EndOfGlobalWindow
	}
	return last + element.Timestamp(max(latenessMillis, 0))
}

// Passed reports whether a watermark says that nothing at t will come any
// more. The last watermark of all has passed everything, whatever an SDK's
// windows claim to be their ends.
func Passed(watermark, t element.Timestamp) bool {
	return watermark > t || watermark >= element.MaxTimestamp
}

// Passing is the least watermark that has passed t.
func Passing(t element.Timestamp) element.Timestamp {
	if t >= element.MaxTimestamp {
		return element.MaxTimestamp
	}
	return t + 1
}
