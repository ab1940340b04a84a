package pane

import (
	"encoding/binary"
	"errors"
	"io"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/window"
)

// The bits of a window's first byte.
const (
	flagClosed = 1 << iota
	flagBuffered
	flagEnded
	flagHeld
	flagCode  // the window has an encoding of its own
	flagTimed // the trigger waits for a time
	flagsEnd
)

// ErrState says that bytes are no Key of the strategy.
var ErrState = errors.New("malformed state of panes")

// Append appends the key's encoding; that of an empty Key is empty.
func (s *Strategy) Append(dst []byte, k *Key) []byte {
	for i := range k.live {
		dst = s.appendLive(dst, &k.live[i])
	}
	return dst
}

func (s *Strategy) appendLive(dst []byte, l *live) []byte {
	timed := l.processing != element.MaxTimestamp || l.synchronized != element.MaxTimestamp
	dst = append(dst, flagIf(l.closed, flagClosed)|flagIf(l.buffered, flagBuffered)|flagIf(l.ended, flagEnded)|
		flagIf(l.held, flagHeld)|flagIf(l.window.Code != "", flagCode)|
		flagIf(timed && !l.closed, flagTimed))
	dst = binary.AppendVarint(dst, int64(l.window.End))
	if l.window.Code != "" {
		dst = binary.AppendUvarint(dst, uint64(len(l.window.Code)))
		dst = append(dst, l.window.Code...)
	} else {
		dst = binary.AppendVarint(dst, int64(l.window.Start))
	}
	if l.closed {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(l.pending))
	dst = binary.AppendUvarint(dst, uint64(l.panes))
	dst = binary.AppendUvarint(dst, uint64(l.onTime))
	if l.held {
		dst = binary.AppendVarint(dst, int64(l.hold))
	}
	if timed {
		dst = binary.AppendVarint(dst, int64(l.processing))
		dst = binary.AppendVarint(dst, int64(l.synchronized))
	}
	return s.Trigger.Append(dst, l.trigger)
}

func flagIf(b bool, flag byte) byte {
	if b {
		return flag
	}
	return 0
}

// Decode decodes all of b. The Key keeps no reference to it.
func (s *Strategy) Decode(b []byte) (Key, error) {
	var k Key
	for len(b) > 0 {
		var l live
		var err error
		if l, b, err = s.decodeLive(b); err != nil {
			return Key{}, err
		}
		if n := len(k.live); n > 0 && k.live[n-1].window.Compare(l.window) >= 0 {
			return Key{}, ErrState
		}
		k.live = append(k.live, l)
	}
	return k, nil
}

func (s *Strategy) decodeLive(b []byte) (live, []byte, error) {
	r := reader{b: b}
	flags := r.byte()
	has := func(flag byte) bool { return flags&flag != 0 }
	l := live{
		closed: has(flagClosed), buffered: has(flagBuffered), ended: has(flagEnded), held: has(flagHeld),
		processing: element.MaxTimestamp, synchronized: element.MaxTimestamp,
	}
	end := r.time()
	if has(flagCode) {
		l.window = window.Window{End: end, Code: string(r.bytes())}
	} else {
		l.window = window.Window{Start: r.time(), End: end}
	}
	if l.closed {
		ok := r.err == nil && flags&^(flagClosed|flagCode) == 0 && has(flagCode) == (l.window.Code != "")
		if !ok {
			return live{}, nil, ErrState
		}
		return live{window: l.window, closed: true}, r.b, nil
	}
	l.pending, l.panes, l.onTime = r.count(), r.count(), r.count()
	if l.held {
		l.hold = r.time()
	}
	if has(flagTimed) {
		l.processing, l.synchronized = r.time(), r.time()
	}
	if r.err != nil || flags >= flagsEnd || has(flagCode) != (l.window.Code != "") || l.onTime > l.panes ||
		has(flagTimed) != (l.processing != element.MaxTimestamp || l.synchronized != element.MaxTimestamp) {
		return live{}, nil, ErrState
	}
	var err error
	if l.trigger, r.b, err = s.Trigger.Decode(r.b); err != nil {
		return live{}, nil, err
	}
	if s.Trigger.Finished(l.trigger) {
		return live{}, nil, trigger.ErrState
	}
	return l, r.b, nil
}

// A reader cuts values from the front of b. After an error all are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() { r.b, r.err = nil, io.ErrUnexpectedEOF }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

func (r *reader) time() element.Timestamp {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return element.Timestamp(v)
}

// count reads a number that isn't negative.
func (r *reader) count() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<62 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *reader) bytes() []byte {
	n := r.count()
	if n > int64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}
