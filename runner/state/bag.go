package state

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"sort"
	"sync"
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
	own  int // segments before this one are the committed bag's too, or on disk
	size int64
}

// A segment is in memory or in the file.
type segment struct {
	mem  []byte
	off  int64
	size int
	sum  uint32 // CRC-32C of what is in the file
	disk bool
}

// writable returns a copy whose list of segments may be changed.
func (b bag) writable() bag {
	b.segs = slices.Clone(b.segs)
	b.own = len(b.segs)
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

// toDisk moves the segments that the committed bag doesn't share to the file.
func (b *bag) toDisk(file *spill, page int) (freed int64, err error) {
	for ; b.own < len(b.segs); b.own++ {
		s := &b.segs[b.own]
		if s.size < min(page, leastSpill) {
			break // the last one, which still grows
		}
		off, err := file.write(s.mem)
		if err != nil {
			return freed, err
		}
		freed += int64(s.size)
		*s = segment{off: off, size: s.size, sum: crc32.Checksum(s.mem, castagnoli), disk: true}
	}
	return freed, nil
}

// page returns the segment that token names, the first one without a token.
func (b *bag) page(file *spill, token []byte) (data, next []byte, err error) {
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
	} else if data, err = file.read(s); err != nil {
		return nil, nil, err
	}
	if i+1 < len(b.segs) {
		next = binary.AppendUvarint(nil, uint64(i+1))
	}
	return data, next, nil
}

// A spill is a temporary file that grows until it is reset. It is made when it
// is first written to.
type spill struct {
	dir string

	mu   sync.Mutex
	file *os.File
	end  int64
}

func (s *spill) write(b []byte) (off int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "state-*")
		if err != nil {
			return 0, err
		}
		// Without a name it vanishes with the process.
		if err := os.Remove(f.Name()); err != nil {
			f.Close()
			return 0, err
		}
		s.file = f
	}
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return 0, err
	}
	off = s.end
	s.end += int64(len(b))
	return off, nil
}

func (s *spill) read(seg *segment) ([]byte, error) {
	s.mu.Lock()
	f := s.file
	s.mu.Unlock()
	if f == nil {
		return nil, errCorrupt
	}
	b := make([]byte, seg.size)
	if _, err := f.ReadAt(b, seg.off); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != seg.sum {
		return nil, errCorrupt
	}
	return b, nil
}

func (s *spill) reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == 0 {
		return nil
	}
	s.end = 0
	return s.file.Truncate(0)
}

func (s *spill) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
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
