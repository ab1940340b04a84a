package pane

import (
	"slices"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/window"
)

// A Key is what is remembered of one key. The zero Key is one that has never
// been seen, and so is one whose windows have all expired.
type Key struct {
	live []live // in the order of their windows, each window once
}

// live is a window that has not expired.
type live struct {
	window  window.Window
	trigger trigger.State

	closed   bool // the trigger has finished: only window and closed have a meaning
	buffered bool // the buffer isn't empty
	ended    bool // the trigger knows that the window has ended

	pending int64 // elements since the last pane
	panes   int64 // fired so far
	onTime  int64 // of them, those that weren't early

	// hold is the timestamp of the next pane, if any of its elements was not
	// too late to have a say.
	held bool
	hold element.Timestamp

	// The times for which the trigger waits; +inf for none.
	processing, synchronized element.Timestamp
}

// Empty reports whether there is nothing to remember.
func (k *Key) Empty() bool { return len(k.live) == 0 }

// Windows are the windows that have not expired, in order.
func (k *Key) Windows() []window.Window {
	out := make([]window.Window, len(k.live))
	for i := range k.live {
		out[i] = k.live[i].window
	}
	return out
}

// find is where a window is, or would be.
func (k *Key) find(w window.Window) (int, bool) {
	if n := len(k.live); n > 0 && k.live[n-1].window == w { // most often
		return n - 1, true
	}
	return slices.BinarySearchFunc(k.live, w, func(l live, w window.Window) int { return l.window.Compare(w) })
}

// Wake is when the key must be told that time has come.
func (s *Strategy) Wake(k *Key) Wake {
	wake := NoWake
	for i := range k.live {
		l := &k.live[i]
		wake.Event = min(wake.Event, s.event(l))
		if l.closed {
			continue
		}
		wake.Processing = min(wake.Processing, l.processing)
		wake.Synchronized = min(wake.Synchronized, l.synchronized)
		if !l.ended && !s.Trigger.Timed() {
			break // the others end and expire later
		}
	}
	return wake
}

// event is the watermark at which something is to be done about a window.
func (s *Strategy) event(l *live) element.Timestamp {
	if l.closed || l.ended {
		return window.Passing(l.window.Expiry(s.LatenessMillis))
	}
	return window.Passing(l.window.MaxTimestamp())
}

// Hold is what the output watermark must not pass; +inf if it may be anything.
// That panes of windows that have ended or expired come before the output
// watermark says so needs no hold: it must not pass an input watermark of which
// the keys that wait for it weren't told.
func (s *Strategy) Hold(k *Key) element.Timestamp {
	hold := element.MaxTimestamp
	for i := range k.live {
		l := &k.live[i]
		if !l.held {
			continue
		}
		hold = min(hold, l.hold)
		if s.Combiner == EndOfWindow {
			break // the others end later
		}
	}
	return hold
}

// Blind reports whether what elements do to a key is independent of what was
// there, as long as their windows and those of the key haven't ended: then they
// may be added to an empty Key, and that be joined with the other one later.
func (s *Strategy) Blind() bool { return s.Merging == window.NoMerging && s.Trigger.Blind() }

// Join adds what was added to another Key later on. The Strategy is Blind, and
// no window of later had ended when the last element was added to it.
func (s *Strategy) Join(k *Key, later *Key) {
	for _, l := range later.live {
		at, ok := k.find(l.window)
		if !ok {
			k.live = slices.Insert(k.live, at, l)
			continue
		}
		into := &k.live[at]
		into.buffered = into.buffered || l.buffered
		into.pending += l.pending
		if l.held {
			if into.held {
				l.hold = s.combine(into.hold, l.hold)
			}
			into.held, into.hold = true, l.hold
		}
	}
}
