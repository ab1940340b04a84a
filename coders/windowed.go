package coders

import (
	"encoding/binary"
	"io"

	"trestle/element"
)

// A Windowed cuts windowed values: 8 bytes of timestamp, 4 of the number of
// windows, the windows, the pane, the element. It is immutable and safe for
// concurrent use.
type Windowed struct {
	elem, window, key *Coder // key is nil unless elem is a kv coder
}

// NewWindowed returns a cutter of elements in windows.
func NewWindowed(elem, window *Coder) *Windowed {
	return &Windowed{elem: elem, window: window, key: elem.Key()}
}

// Elem is the element's coder.
func (w *Windowed) Elem() *Coder { return w.elem }

// Window is the window's coder.
func (w *Windowed) Window() *Coder { return w.window }

// A Value is one windowed value. All of it aliases the bytes it was cut from.
type Value struct {
	Raw        []byte // the whole encoding
	Windows    []byte // encodings back to back; cut them with Windowed.CutWindow
	Pane       []byte // see DecodePane
	Elem       []byte // encoding in the nested context
	NumWindows int
	KeyLen     int // of Elem, the leading bytes that are the key; 0 unless a kv
}

// Timestamp decodes the value's timestamp.
func (v *Value) Timestamp() element.Timestamp { return decodeTimestamp(v.Raw) }

// Header is all that stands before the element.
func (v *Value) Header() []byte { return v.Raw[:len(v.Raw)-len(v.Elem)] }

// Key is the key's encoding, if the element is a kv.
func (v *Value) Key() []byte { return v.Elem[:v.KeyLen] }

// KVValue is the encoding of the kv's value, if the element is a kv.
func (v *Value) KVValue() []byte { return v.Elem[v.KeyLen:] }

// Next cuts b's first windowed value into v and returns what follows it. It
// fails with io.ErrUnexpectedEOF if b ends inside the value; v is undefined
// then.
func (w *Windowed) Next(b []byte, v *Value) (rest []byte, err error) {
	// One global window and a pane of one byte is what nearly all elements have.
	const elem = timestampBytes + countBytes + 1
	if w.window.fixed == 0 && len(b) >= elem && binary.BigEndian.Uint32(b[timestampBytes:]) == 1 && b[elem-1] < 0x10 {
		v.NumWindows = 1
		v.Windows = b[elem-1 : elem-1]
		v.Pane = b[elem-1 : elem : elem]
		return w.cutElem(b, elem, v)
	}
	n, pane, windows, err := skipHeader(w.window, b)
	if err != nil {
		return nil, err
	}
	v.NumWindows = windows
	v.Windows = b[timestampBytes+countBytes : pane : pane]
	v.Pane = b[pane:n:n]
	return w.cutElem(b, n, v)
}

// cutElem cuts the element that begins at b[at].
func (w *Windowed) cutElem(b []byte, at int, v *Value) (rest []byte, err error) {
	var key, n int
	if w.key == nil {
		n, err = w.elem.Skip(b[at:])
	} else {
		if key, err = w.key.Skip(b[at:]); err != nil {
			return nil, err
		}
		n, err = w.elem.b.Skip(b[at+key:])
		n += key
	}
	if err != nil {
		return nil, err
	}
	end := at + n
	v.Raw, v.Elem, v.KeyLen = b[:end:end], b[at:end:end], key
	return b[end:], nil
}

// KeyValue cuts one element of a kv coder in two.
func (w *Windowed) KeyValue(elem []byte) (key, value []byte, err error) {
	if w.key == nil {
		return nil, nil, ErrMalformed
	}
	n, err := w.key.Skip(elem)
	if err != nil {
		return nil, nil, err
	}
	return elem[:n:n], elem[n:], nil
}

// CutWindow cuts the first of some windows, as in Value.Windows.
func (w *Windowed) CutWindow(windows []byte) (window, rest []byte, err error) {
	n, err := w.window.Skip(windows)
	if err != nil {
		return nil, nil, err
	}
	return windows[:n:n], windows[n:], nil
}

// MaxTimestamp is the last timestamp of an encoded window.
func (w *Windowed) MaxTimestamp(window []byte) (element.Timestamp, error) {
	return w.window.MaxTimestamp(window)
}

// MaxTimestamp is the last timestamp of an encoded window, if c is the coder
// of a global, interval or custom window.
func (c *Coder) MaxTimestamp(window []byte) (element.Timestamp, error) {
	switch c.urn {
	case URNGlobalWindow:
		return element.EndOfGlobalWindow, nil
	case URNIntervalWindow, URNCustomWindow:
		if len(window) < timestampBytes {
			return 0, io.ErrUnexpectedEOF
		}
		ts := decodeTimestamp(window)
		if c.urn == URNIntervalWindow { // whose end is exclusive
			if ts == lowest {
				return 0, ErrMalformed
			}
			ts--
		}
		return ts, nil
	}
	return 0, ErrMalformed
}

// AppendHeader appends all of a windowed value but its element; windows holds
// numWindows encodings back to back.
func AppendHeader(dst []byte, ts element.Timestamp, numWindows int, windows, pane []byte) []byte {
	dst = AppendTimestamp(dst, ts)
	dst = binary.BigEndian.AppendUint32(dst, uint32(numWindows))
	dst = append(dst, windows...)
	return append(dst, pane...)
}
