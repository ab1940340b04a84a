package pane

import (
	"trestle/element"
	"trestle/runner/window"
)

// Now is what is known of time when something happens.
type Now struct {
	// Input is the watermark of the grouping's input. Output is what it has
	// said downstream; Output <= Input.
	Input, Output element.Timestamp
	// Processing is the job's clock, Synchronized the time that all stages
	// upstream have passed.
	Processing, Synchronized element.Timestamp
}

// An Element is what the decider must know of an element.
type Element struct {
	Timestamp element.Timestamp
	Windows   []window.Window
}

// An OpKind says what is to be done.
type OpKind uint8

// The operations.
const (
	// Append puts element Op.Element at the end of the buffer of Op.Window,
	// which is empty if nothing was ever appended to it.
	Append OpKind = iota
	// Merge moves what the buffers of Op.From hold behind what that of
	// Op.Window holds.
	Merge
	// Emit sends all that the buffer of Op.Window holds, which may be nothing,
	// with Op.Timestamp, in Op.Window and in Op.Pane. The buffer stays.
	Emit
	// Clear empties the buffer of Op.Window.
	Clear
	// DropExpired and DropClosed say that element Op.Element is not in any pane
	// of Op.Window: because the window has expired, or because its trigger has
	// finished. Both are counted for the user.
	DropExpired
	DropClosed
	// Expire says that Op.Window is forgotten.
	Expire
)

// An Op is one thing to be done. Of its fields those have a meaning that its
// kind names.
type Op struct {
	Kind      OpKind
	Window    window.Window
	Element   int
	From      []window.Window
	Timestamp element.Timestamp
	Pane      element.Pane
}

// A Wake is when a Key must be told that time has come: at the input watermark
// Event, or the clock's Processing, or Synchronized processing time. +inf means
// never, but for Event, which every window has at last.
type Wake struct {
	Event, Processing, Synchronized element.Timestamp
}

// NoWake is the Wake of a Key that waits for nothing.
var NoWake = Wake{Event: element.MaxTimestamp, Processing: element.MaxTimestamp, Synchronized: element.MaxTimestamp}

// Due reports whether the Key must be told now.
func (w Wake) Due(now Now) bool {
	return w.Event <= now.Input || w.timeDue(now)
}

// timeDue reports whether a processing time has come.
func (w Wake) timeDue(now Now) bool {
	return w.Processing <= now.Processing && w.Processing < element.MaxTimestamp ||
		w.Synchronized <= now.Synchronized && w.Synchronized < element.MaxTimestamp
}
