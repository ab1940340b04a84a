package state

import (
	"encoding/binary"
	"math"
	"slices"
)

// A RecordReader cuts a Pager's record into its parts, from the front. Once one
// is bad, all that follow are empty.
type RecordReader struct {
	b   []byte
	bad bool
}

// ReadRecord begins to read a record. What is read shares its bytes.
func ReadRecord(record []byte) *RecordReader { return &RecordReader{b: record} }

// Bad reports whether some part was not there.
func (r *RecordReader) Bad() bool { return r.bad }

// Rest is what was not read yet; nothing if some part was not there.
func (r *RecordReader) Rest() []byte { return r.b }

func (r *RecordReader) fail() { r.b, r.bad = nil, true }

// Byte is a byte.
func (r *RecordReader) Byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

// Number is a varint without sign.
func (r *RecordReader) Number() uint64 {
	n, used := binary.Uvarint(r.b)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[used:]
	return n
}

// Signed is a varint.
func (r *RecordReader) Signed() int64 {
	n, used := binary.Varint(r.b)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[used:]
	return n
}

// Count is a number of what follows, each of a byte at least.
func (r *RecordReader) Count() int {
	n := r.Number()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

// Bytes is what has its length before it.
func (r *RecordReader) Bytes() []byte {
	return r.take(r.Count())
}

func (r *RecordReader) take(n int) []byte {
	if n > len(r.b) {
		r.fail()
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *RecordReader) bag() bag {
	var b bag
	for n := r.Count(); n > 0 && !r.bad; n-- {
		size := r.Number()
		seg := segment{disk: size&1 != 0}
		if size >>= 1; size > math.MaxInt32 {
			r.fail()
		}
		if seg.size = int(size); seg.disk {
			seg.off, seg.sum = r.Signed(), uint32(r.Number())
		} else {
			seg.mem = slices.Clone(r.take(seg.size))
		}
		b.segs = append(b.segs, seg)
		b.size += int64(size)
	}
	b.own = len(b.segs)
	return b
}
