package state

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"sort"
)

var (
	errToken   = errors.New("state: not a continuation token of this state")
	errCorrupt = errors.New("state: temporary file is corrupt")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// A bag is a stream of bytes that is read and appended to. Its segments are
// what a page holds: whole appends, for an SDK may decode each page by itself,
// and an append is whole elements.
//
// Copies of a bag share their segments' bytes, which are never changed. Only
// one copy at a time may be appended to.
type bag struct {
	segs []segment
	base int // segments before this one are the committed bag's too
	own  int // segments before this one are that, or on disk
	size int64
}

// A segment is in memory or on a shelf.
type segment struct {
	mem  []byte
	off  int64
	size int
	sum  uint32 // CRC-32C of what is on the shelf
	disk bool
}

// writable returns a copy whose list of segments may be changed.
func (b bag) writable() bag {
	b.segs = slices.Clone(b.segs)
	b.base, b.own = len(b.segs), len(b.segs)
	return b
}

// append copies data to the last segment, or to a new one if that is full.
func (b *bag) append(data []byte, page int) {
	if len(data) == 0 {
		return
	}
	b.size += int64(len(data))
	if n := len(b.segs); n > 0 {
		last := &b.segs[n-1]
		if !last.disk && last.size < page {
			last.mem = append(last.mem, data...)
			last.size = len(last.mem)
			return
		}
	}
	b.segs = append(b.segs, segment{mem: slices.Clone(data), size: len(data)})
}

// memory is the number of bytes in memory.
func (b *bag) memory() int64 {
	var n int64
	for i := range b.segs {
		n += int64(len(b.segs[i].mem))
	}
	return n
}

// leastSpill is the size from which a segment is worth a read of its own.
const leastSpill = 16 << 10

// toDisk moves the segments that the committed bag doesn't share to the shelf.
func (b *bag) toDisk(to shelf, page int) (freed int64, err error) {
	for ; b.own < len(b.segs); b.own++ {
		s := &b.segs[b.own]
		if s.size < min(page, leastSpill) {
			break // the last one, which still grows
		}
		if err := s.toDisk(to); err != nil {
			return freed, err
		}
		freed += int64(s.size)
	}
	return freed, nil
}

// fullToDisk moves all segments of a committed bag to the shelf but the last,
// which still grows. There may be some in memory between others: where the last
// one grew in a bundle that put those after it on the shelf.
func (b *bag) fullToDisk(to shelf) error {
	for i := range len(b.segs) - 1 {
		if b.segs[i].disk {
			continue
		}
		if err := b.segs[i].toDisk(to); err != nil {
			return err
		}
	}
	b.own = max(0, len(b.segs)-1)
	return nil
}

func (s *segment) toDisk(to shelf) error {
	off, err := to.write(s.mem)
	if err != nil {
		return err
	}
	*s = segment{off: off, size: s.size, sum: crc32.Checksum(s.mem, castagnoli), disk: true}
	return nil
}

// drop takes the segments from one on off the shelf.
func (b *bag) drop(from int, of shelf) error {
	for i := from; i < len(b.segs); i++ {
		if b.segs[i].disk {
			if err := of.drop(&b.segs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// page returns the segment that token names, the first one without a token.
func (b *bag) page(on shelf, token []byte) (data, next []byte, err error) {
	i := 0
	if token != nil {
		v, n := binary.Uvarint(token)
		if n <= 0 || n != len(token) || v > 1<<31 {
			return nil, nil, errToken
		}
		i = int(v)
	}
	if i >= len(b.segs) {
		return nil, nil, nil // cleared since, or empty
	}
	s := &b.segs[i]
	if !s.disk {
		data = slices.Clone(s.mem)
	} else if data, err = on.read(s); err != nil {
		return nil, nil, err
	} else if crc32.Checksum(data, castagnoli) != s.sum {
		return nil, nil, errCorrupt
	}
	if i+1 < len(b.segs) {
		next = binary.AppendUvarint(nil, uint64(i+1))
	}
	return data, next, nil
}

// keyPage returns the sorted keys that follow the token, which is 1 and the
// key that the last page ended with. So it names the same place even if keys
// come and go between two pages.
func keyPage(keys []string, token []byte, page int) (data, next []byte, err error) {
	if token != nil {
		if len(token) == 0 || token[0] != 1 {
			return nil, nil, errToken
		}
		last := string(token[1:])
		keys = keys[sort.Search(len(keys), func(i int) bool { return keys[i] > last }):]
	}
	for i, key := range keys {
		data = append(data, key...)
		if len(data) >= page && i+1 < len(keys) {
			return data, append([]byte{1}, key...), nil
		}
	}
	return data, nil, nil
}
