package group

import (
	"encoding/binary"
	"math"
)

// A builder encodes one group's key and iterable of values. Values are appended
// as they come, until they are too many; the rest goes to a tail. What stands
// before the values has the same length whatever comes: the timestamp takes 8
// bytes, the number of values 4. Only a session's window is not known before
// its last value, and so its values are built apart.
type builder struct {
	g      *Grouper
	dst    []byte
	body   int // where the values begin in dst
	values int64
	tail   *tailWriter // nil while all values are in dst
}

// start begins an iterable at the end of dst.
func (b *builder) start(dst []byte) {
	b.dst = append(dst, 0, 0, 0, 0) // the number of values, see end
	b.body, b.values, b.tail = len(b.dst), 0, nil
}

// add appends some whole values.
func (b *builder) add(values []byte, count int) error {
	if b.tail == nil {
		b.dst = append(b.dst, values...)
		b.values += int64(count)
		if int64(len(b.dst)-b.body) <= b.g.cfg.LargeBytes {
			return nil
		}
		return b.split()
	}
	return b.tail.add(values, count)
}

// split makes what is there the first chunk of an iterable of unknown length,
// and begins the tail.
func (b *builder) split() error {
	b.chunked()
	var err error
	b.tail, err = b.g.large.newTail()
	return err
}

// chunked puts the mark of an unknown length and the count of the first chunk
// before the values.
func (b *builder) chunked() {
	binary.BigEndian.PutUint32(b.dst[b.body-4:], math.MaxUint32) // -1
	var count [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(count[:], uint64(b.values))
	b.dst = append(b.dst, count[:n]...)
	copy(b.dst[b.body+n:], b.dst[b.body:])
	copy(b.dst[b.body:], count[:n])
}

const (
	endOfChunks = 0  // stands where the count of a next chunk would
	tokenNext   = -1 // and so does this: the rest is with the state API
)

// end completes the iterable. A tail that can't be left to the state API is
// given back, and the iterable is not complete before all of it follows.
func (b *builder) end() (inline *tail, err error) {
	if b.tail == nil {
		if b.values <= math.MaxInt32 {
			binary.BigEndian.PutUint32(b.dst[b.body-4:], uint32(b.values))
			return nil, nil
		}
		b.chunked()
		b.dst = append(b.dst, endOfChunks)
		return nil, nil
	}
	t, err := b.tail.finish()
	b.tail = nil
	if err != nil {
		return nil, err
	}
	if len(t.pages) == 0 { // the value that was too much was the last one
		t.close()
		b.dst = append(b.dst, endOfChunks)
		return nil, nil
	}
	if !b.g.cfg.StateBacked {
		return t, nil
	}
	token, err := b.g.large.put(t)
	if err != nil {
		return nil, err
	}
	rest := int64(tokenNext)
	b.dst = binary.AppendUvarint(b.dst, uint64(rest))
	b.dst = binary.AppendUvarint(b.dst, uint64(len(token)))
	b.dst = append(b.dst, token...)
	return nil, nil
}

// abandon frees what an error has left.
func (b *builder) abandon() {
	if b.tail != nil {
		b.tail.abandon()
		b.tail = nil
	}
}
