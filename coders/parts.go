package coders

import (
	"encoding/binary"
	"io"
	"math"
	"slices"

	"trestle/element"
)

// lowest is the least timestamp that can be encoded; Beam's own least is greater.
const lowest element.Timestamp = math.MinInt64

// Encoded panes of the two commonest kinds. They have no spare capacity, so
// that appending to one copies it.
var (
	NoFiring   = slices.Clip(AppendPane(nil, element.NoFiring))
	OnlyFiring = slices.Clip(AppendPane(nil, element.OnlyFiring))
)

// AppendTimestamp appends 8 bytes that sort as timestamps do.
func AppendTimestamp(dst []byte, ts element.Timestamp) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ts)^1<<63)
}

// DecodeTimestamp decodes b's first 8 bytes.
func DecodeTimestamp(b []byte) (element.Timestamp, error) {
	if len(b) < timestampBytes {
		return 0, io.ErrUnexpectedEOF
	}
	return decodeTimestamp(b), nil
}

func decodeTimestamp(b []byte) element.Timestamp {
	return element.Timestamp(binary.BigEndian.Uint64(b) ^ 1<<63)
}

// AppendInterval appends the encoding of an interval window: its end and its
// length in milliseconds.
func AppendInterval(dst []byte, w element.Interval) []byte {
	dst = AppendTimestamp(dst, w.End)
	return binary.AppendUvarint(dst, uint64(w.End)-uint64(w.Start))
}

// DecodeInterval decodes the interval window that b begins with, and tells
// its length.
func DecodeInterval(b []byte) (w element.Interval, n int, err error) {
	if len(b) < timestampBytes {
		return w, 0, io.ErrUnexpectedEOF
	}
	w.End = decodeTimestamp(b)
	span, n, err := uvarint(b[timestampBytes:])
	if err != nil {
		return w, 0, err
	}
	if span > uint64(w.End)^1<<63 { // more than End lies above the lowest
		return w, 0, ErrMalformed
	}
	w.Start = element.Timestamp(uint64(w.End) - span)
	return w, timestampBytes + n, nil
}

// The high half of a pane's first byte.
const (
	paneBare       = 0 << 4 // no index
	paneOneIndex   = 1 << 4 // the other one follows from it
	paneTwoIndices = 2 << 4
)

// AppendPane appends the encoding of a pane.
func AppendPane(dst []byte, p element.Pane) []byte {
	b := byte(p.Timing&3) << 2
	if p.First {
		b |= 1
	}
	if p.Last {
		b |= 2
	}
	switch {
	case p.Index == 0 && p.OnTimeIndex == 0 || p.Timing == element.Unknown:
		return append(dst, b|paneBare)
	case p.Index == p.OnTimeIndex || p.Timing == element.Early:
		return binary.AppendUvarint(append(dst, b|paneOneIndex), uint64(p.Index))
	}
	dst = binary.AppendUvarint(append(dst, b|paneTwoIndices), uint64(p.Index))
	return binary.AppendUvarint(dst, uint64(p.OnTimeIndex))
}

// DecodePane decodes the pane that b begins with, and tells its length.
func DecodePane(b []byte) (p element.Pane, n int, err error) {
	if len(b) == 0 {
		return p, 0, io.ErrUnexpectedEOF
	}
	p.First = b[0]&1 != 0
	p.Last = b[0]&2 != 0
	p.Timing = element.Timing(b[0] >> 2 & 3)
	var indices [2]int64
	count := int(b[0] >> 4)
	if count > len(indices) {
		return p, 0, ErrMalformed
	}
	n = 1
	for i := range count {
		v, m, err := uvarint(b[n:])
		if err != nil {
			return p, 0, err
		}
		indices[i] = int64(v)
		n += m
	}
	p.Index = indices[0]
	switch {
	case count == 2:
		p.OnTimeIndex = indices[1]
	case p.Timing == element.Early:
		p.OnTimeIndex = -1
	default:
		p.OnTimeIndex = p.Index
	}
	return p, n, nil
}
