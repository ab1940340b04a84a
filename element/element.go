// Package element holds the nouns of data: timestamps, windows and panes.
//
// An element itself stays bytes from the worker that wrote it to the worker
// that reads it (package coders cuts the bytes). What the runner must
// understand of it to decide when and with what it is grouped is here, as
// small values without behaviour of their own.
package element

import (
	"math"
	"strconv"
)

// A Timestamp is an event time in milliseconds since the epoch.
type Timestamp int64

// Beam's bounds of event time (BoundedWindow.TIMESTAMP_MIN_VALUE and its
// neighbours): microseconds that fit an int64, told in milliseconds.
const (
	MinTimestamp Timestamp = math.MinInt64 / 1000
	MaxTimestamp Timestamp = math.MaxInt64 / 1000
	// EndOfGlobalWindow is a day before MaxTimestamp, so that the timers of the
	// global window may still fire after its end.
	EndOfGlobalWindow Timestamp = MaxTimestamp - 24*60*60*1000
)

// String prints t as milliseconds, and Beam's bounds by name.
func (t Timestamp) String() string {
	switch t {
	case MinTimestamp:
		return "-inf"
	case MaxTimestamp:
		return "+inf"
	case EndOfGlobalWindow:
		return "end-of-global"
	}
	return strconv.FormatInt(int64(t), 10)
}

// An Interval is the window [Start, End) of event time.
type Interval struct {
	Start, End Timestamp // Start <= End
}

// MaxTimestamp is the last timestamp that belongs to the window.
func (w Interval) MaxTimestamp() Timestamp { return w.End - 1 }

// Timing tells how a pane stands to the watermark. The values are Beam's wire
// values.
type Timing byte

// Beam's four timings.
const (
	Early Timing = iota
	OnTime
	Late
	Unknown
)

// A Pane is one firing of one window of one key.
type Pane struct {
	First, Last bool
	Timing      Timing
	Index       int64 // counts the panes of the window from 0
	OnTimeIndex int64 // counts those from the on-time pane on; -1 before it
}

// NoFiring is the pane of elements that no trigger has fired yet.
var NoFiring = Pane{First: true, Last: true, Timing: Unknown}

// OnlyFiring is the single on-time pane that a bounded grouping fires.
var OnlyFiring = Pane{First: true, Last: true, Timing: OnTime}
