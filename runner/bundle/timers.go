package bundle

import (
	"encoding/binary"
	"fmt"
	"io"

	"trestle/coders"
	"trestle/element"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Family is one timer family of a stage.
type Family struct {
	Transform, ID  string
	ProcessingTime bool
	Expiry         bool // the runner sets them: one for each key and window, at its end
	key, window    *coders.Coder
}

// A Timer is one timer as it travels. All slices alias the bytes it was cut from.
type Timer struct {
	Key     []byte // encoded
	Tag     []byte
	Windows []byte // encodings back to back
	Count   int    // of Windows
	Clear   bool
	Fire    element.Timestamp // when not Clear
	Hold    element.Timestamp // when not Clear: the output timestamp
	Raw     []byte            // the whole encoding
}

// family makes the cutter of a family's timers.
func (c *compiler) family(transform, id string, spec *pipepb.TimerFamilySpec) (Family, error) {
	cd := c.coders[spec.GetTimerFamilyCoderId()]
	if cd.GetSpec().GetUrn() != coders.URNTimer || len(cd.GetComponentCoderIds()) != 2 {
		return Family{}, fmt.Errorf("timer family %q of %q has no timer coder", id, transform)
	}
	k, err := c.table.Coder(cd.GetComponentCoderIds()[0])
	if err != nil {
		return Family{}, err
	}
	w, err := c.table.Coder(cd.GetComponentCoderIds()[1])
	if err != nil {
		return Family{}, err
	}
	return Family{
		Transform: transform, ID: id, key: k, window: w,
		ProcessingTime: spec.GetTimeDomain() == pipepb.TimeDomain_PROCESSING_TIME,
	}, nil
}

// family finds a timer family, nil if none is so called; stages have few.
func (p *Program) family(transform, id string) *Family {
	for i := range p.Families {
		if f := &p.Families[i]; f.Transform == transform && f.ID == id {
			return f
		}
	}
	return nil
}

// AppendTimer appends a timer without a tag, of an encoded key and window.
func AppendTimer(dst, key, window []byte, fire element.Timestamp) []byte {
	dst = append(dst, key...)
	dst = append(dst, 0) // the length of the tag
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = append(dst, window...)
	dst = append(dst, 0) // not cleared
	dst = coders.AppendTimestamp(dst, fire)
	dst = coders.AppendTimestamp(dst, fire)
	return append(dst, coders.NoFiring...)
}

// Cut cuts the first timer of b.
func (f *Family) Cut(b []byte) (t Timer, rest []byte, err error) {
	start := b
	if t.Key, b, err = cutOne(f.key, b); err != nil {
		return t, nil, err
	}
	n, used := binary.Uvarint(b)
	if used <= 0 || uint64(len(b)-used) < n {
		return t, nil, io.ErrUnexpectedEOF
	}
	t.Tag, b = b[used:used+int(n)], b[used+int(n):]
	if len(b) < 4 {
		return t, nil, io.ErrUnexpectedEOF
	}
	t.Count = int(int32(binary.BigEndian.Uint32(b)))
	if t.Count < 0 || t.Count > 1 && f.window.Fixed() == 0 { // one window is all there is
		return t, nil, coders.ErrMalformed
	}
	b = b[4:]
	windows := b
	for range t.Count {
		if _, b, err = cutOne(f.window, b); err != nil {
			return t, nil, err
		}
	}
	t.Windows = windows[:len(windows)-len(b)]
	if len(b) < 1 {
		return t, nil, io.ErrUnexpectedEOF
	}
	t.Clear, b = b[0] != 0, b[1:]
	if !t.Clear {
		if b, err = t.cutTimes(b); err != nil {
			return t, nil, err
		}
	}
	t.Raw = start[:len(start)-len(b)]
	return t, b, nil
}

// cutTimes cuts fire time, hold time and pane.
func (t *Timer) cutTimes(b []byte) (rest []byte, err error) {
	if t.Fire, err = coders.DecodeTimestamp(b); err != nil {
		return nil, err
	}
	if t.Hold, err = coders.DecodeTimestamp(b[8:]); err != nil {
		return nil, err
	}
	_, n, err := coders.DecodePane(b[16:])
	if err != nil {
		return nil, err
	}
	return b[16+n:], nil
}

func cutOne(c *coders.Coder, b []byte) (one, rest []byte, err error) {
	n, err := c.Skip(b)
	if err != nil {
		return nil, nil, err
	}
	return b[:n], b[n:], nil
}
