package coders

import (
	"encoding/binary"
	"io"
	"math"
)

const (
	timestampBytes = 8
	countBytes     = 4
	maxVarintBytes = 10
)

// Skip returns the length of b's first element. It fails with
// io.ErrUnexpectedEOF if b ends inside it, and with ErrMalformed if there is
// none.
func (c *Coder) Skip(b []byte) (n int, err error) {
	switch c.kind {
	case fixedSize:
		if len(b) < c.fixed {
			return 0, io.ErrUnexpectedEOF
		}
		return c.fixed, nil
	case prefixed:
		if len(b) > 0 && b[0] < 0x80 {
			n = 1 + int(b[0])
			if n <= len(b) {
				return n, nil
			}
			return 0, io.ErrUnexpectedEOF
		}
		return skipPrefixed(b)
	case varint:
		if len(b) > 0 && b[0] < 0x80 {
			return 1, nil
		}
		_, n, err = uvarint(b)
		return n, err
	case pair:
		return skipTwo(c.a, c.b, b)
	case interval:
		return skipInterval(b)
	}
	return c.skipRare(b)
}

// skipRare is Skip for all kinds that a group by key doesn't see in every
// element. Apart, it keeps Skip small.
func (c *Coder) skipRare(b []byte) (int, error) {
	switch c.kind {
	case iterable, stateIterable:
		return c.skipIterable(b)
	case nullable:
		if len(b) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		switch b[0] {
		case 0:
			return 1, nil
		case 1:
			n, err := c.a.Skip(b[1:])
			return 1 + n, err
		}
		return 0, ErrMalformed
	case shardedKey:
		n, err := skipPrefixed(b)
		if err != nil {
			return 0, err
		}
		m, err := c.a.Skip(b[n:])
		return n + m, err
	case customWindow:
		return skipTwo(timestampPart, c.a, b)
	case timer:
		return c.skipTimer(b)
	case windowedValue:
		n, _, _, err := skipHeader(c.b, b)
		if err != nil {
			return 0, err
		}
		m, err := c.a.Skip(b[n:])
		return n + m, err
	}
	return 0, ErrMalformed
}

func skipTwo(first, second *Coder, b []byte) (int, error) {
	n, err := first.Skip(b)
	if err != nil {
		return 0, err
	}
	m, err := second.Skip(b[n:])
	return n + m, err
}

// skipInterval cuts a timestamp and a varint.
func skipInterval(b []byte) (int, error) {
	if len(b) <= timestampBytes {
		return 0, io.ErrUnexpectedEOF
	}
	_, n, err := uvarint(b[timestampBytes:])
	return timestampBytes + n, err
}

// skipPrefixed cuts a varint length and that many bytes.
func skipPrefixed(b []byte) (int, error) {
	size, n, err := uvarint(b)
	if err != nil {
		return 0, err
	}
	if size > math.MaxInt64 {
		return 0, ErrMalformed
	}
	if size > uint64(len(b)-n) {
		return 0, io.ErrUnexpectedEOF
	}
	return n + int(size), nil
}

// skipMany cuts count elements.
func (c *Coder) skipMany(count uint64, b []byte) (int, error) {
	if c.fixed == 0 {
		return 0, nil
	}
	// Every element takes a byte or more, so the loop below is bounded by b.
	if count > uint64(len(b)/c.least) {
		return 0, io.ErrUnexpectedEOF
	}
	if c.fixed > 0 {
		return int(count) * c.fixed, nil
	}
	n := 0
	for range count {
		m, err := c.Skip(b[n:])
		if err != nil {
			return 0, err
		}
		n += m
	}
	return n, nil
}

// skipIterable cuts a known number of elements, or chunks of elements that end
// with an empty one or, if state backed, with -1 and a token.
func (c *Coder) skipIterable(b []byte) (int, error) {
	if len(b) < countBytes {
		return 0, io.ErrUnexpectedEOF
	}
	count := int32(binary.BigEndian.Uint32(b))
	if count >= 0 {
		n, err := c.a.skipMany(uint64(count), b[countBytes:])
		return countBytes + n, err
	}
	if count != -1 {
		return 0, ErrMalformed
	}
	n := countBytes
	for {
		chunk, m, err := uvarint(b[n:])
		if err != nil {
			return 0, err
		}
		n += m
		switch {
		case chunk == 0:
			return n, nil
		case chunk == math.MaxUint64 && c.kind == stateIterable:
			m, err = skipPrefixed(b[n:])
			return n + m, err
		case chunk > math.MaxInt64:
			return 0, ErrMalformed
		}
		if m, err = c.a.skipMany(chunk, b[n:]); err != nil {
			return 0, err
		}
		n += m
	}
}

// skipTimer cuts a timer: key, tag, windows and clear bit; unless that is set,
// also when to fire, what to hold, and a pane.
func (c *Coder) skipTimer(b []byte) (int, error) {
	n, err := c.a.Skip(b)
	if err != nil {
		return 0, err
	}
	m, err := skipPrefixed(b[n:])
	if err != nil {
		return 0, err
	}
	n += m
	if m, _, err = skipWindows(c.b, b[n:]); err != nil {
		return 0, err
	}
	n += m
	if n >= len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	clear := b[n]
	n++
	if clear == 1 {
		return n, nil
	}
	if clear != 0 {
		return 0, ErrMalformed
	}
	if len(b)-n < 2*timestampBytes {
		return 0, io.ErrUnexpectedEOF
	}
	n += 2 * timestampBytes
	m, err = skipPane(b[n:])
	return n + m, err
}

// skipWindows cuts a count and that many windows.
func skipWindows(window *Coder, b []byte) (n, count int, err error) {
	if len(b) < countBytes {
		return 0, 0, io.ErrUnexpectedEOF
	}
	count = int(int32(binary.BigEndian.Uint32(b)))
	// A window without bytes is the global one, which can't be there twice;
	// believing a greater count would let 4 bytes cost billions of steps.
	if count < 0 || count > 1 && window.fixed == 0 {
		return 0, 0, ErrMalformed
	}
	if count == 1 {
		n, err = window.Skip(b[countBytes:])
	} else {
		n, err = window.skipMany(uint64(count), b[countBytes:])
	}
	return countBytes + n, count, err
}

// skipHeader cuts all of a windowed value but its element, and tells where its
// pane begins and how many windows it has.
func skipHeader(window *Coder, b []byte) (n, pane, windows int, err error) {
	if len(b) < timestampBytes {
		return 0, 0, 0, io.ErrUnexpectedEOF
	}
	n, windows, err = skipWindows(window, b[timestampBytes:])
	if err != nil {
		return 0, 0, 0, err
	}
	pane = timestampBytes + n
	n, err = skipPane(b[pane:])
	return pane + n, pane, windows, err
}

// skipPane cuts a pane: one byte whose high half tells how many varints follow.
func skipPane(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	varints := b[0] >> 4
	if varints == 0 {
		return 1, nil
	}
	if varints > 2 {
		return 0, ErrMalformed
	}
	n := 1
	for range varints {
		_, m, err := uvarint(b[n:])
		if err != nil {
			return 0, err
		}
		n += m
	}
	return n, nil
}

// uvarint decodes a varint of at most 64 bits. Unlike binary.Uvarint it tells
// bytes that end too early from bytes that are wrong in a single error.
func uvarint(b []byte) (v uint64, n int, err error) {
	for i := range min(len(b), maxVarintBytes) {
		c := b[i]
		if c < 0x80 {
			if i == maxVarintBytes-1 && c > 1 {
				return 0, 0, ErrMalformed
			}
			return v | uint64(c)<<(7*i), i + 1, nil
		}
		v |= uint64(c&0x7f) << (7 * i)
	}
	if len(b) >= maxVarintBytes {
		return 0, 0, ErrMalformed
	}
	return 0, 0, io.ErrUnexpectedEOF
}
