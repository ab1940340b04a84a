package kafka

import (
	"errors"
	"fmt"
	"time"
)

// A Record is one record of a partition. Null keys and values are nil, empty
// ones are not.
type Record struct {
	Offset int64
	// Time is in milliseconds since 1970, -1 if the record has none.
	Time int64
	// ByLog says that the broker has set the time (LogAppendTime), not the
	// producer (CreateTime).
	ByLog      bool
	Key, Value []byte
	// Headers in their order; names may come twice.
	Headers []Header
}

// A Header is one of a record's.
type Header struct {
	Key   string
	Value []byte
}

// When is the record's time.
func (r *Record) When() time.Time { return time.UnixMilli(r.Time) }

// A cursor reads records of format 2.
type cursor struct{ b []byte }

var errRecord = errors.New("a record is broken")

// varint reads a zigzag varint.
func (c *cursor) varint() (int64, bool) {
	var v uint64
	for i, x := range c.b {
		if i == 10 {
			break
		}
		v |= uint64(x&0x7f) << (7 * i)
		if x < 0x80 {
			c.b = c.b[i+1:]
			return int64(v>>1) ^ -int64(v&1), true
		}
	}
	return 0, false
}

// field reads bytes after their length; -1 is null.
func (c *cursor) field() ([]byte, bool) {
	n, ok := c.varint()
	if !ok || n > int64(len(c.b)) {
		return nil, false
	}
	if n < 0 {
		return nil, true
	}
	f := c.b[:n:n]
	c.b = c.b[n:]
	return f, true
}

// record reads one record, with offset and time relative to the batch's.
func (c *cursor) record(r *Record) error {
	n, ok := c.varint()
	if !ok || n < 1 || n > int64(len(c.b)) {
		return errRecord
	}
	in := cursor{b: c.b[1:n:n]} // after the attributes, which mean nothing
	c.b = c.b[n:]
	var ok1, ok2, ok3, ok4, ok5 bool
	var headers int64
	r.Time, ok1 = in.varint()
	r.Offset, ok2 = in.varint()
	r.Key, ok3 = in.field()
	r.Value, ok4 = in.field()
	headers, ok5 = in.varint()
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || headers < 0 || headers > int64(len(in.b)) {
		return errRecord
	}
	r.Headers = nil
	if headers > 0 {
		r.Headers = make([]Header, headers)
		for i := range r.Headers {
			name, ok := in.field()
			value, ok1 := in.field()
			if !ok || !ok1 {
				return errRecord
			}
			r.Headers[i] = Header{Key: string(name), Value: value}
		}
	}
	if len(in.b) > 0 {
		return fmt.Errorf("%w: %d bytes are left over", errRecord, len(in.b))
	}
	return nil
}
