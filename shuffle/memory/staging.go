package memory

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"trestle/internal/membudget"

	"github.com/cespare/xxhash/v2"
)

// A staging holds blocks that wait for their commit, in a file without a name.
// The zero value is empty.
type staging struct {
	mu     sync.Mutex
	file   *os.File // nil while nothing is staged
	end    int64
	live   int // blocks neither loaded nor discarded
	blocks map[int]staged
	last   int // reference given; 0 is that of a block that could not be stored
	closed bool
}

type staged struct {
	off  int64
	size int
	sum  uint64
}

var errStagingClosed = errors.New("the partition has ended")

// store writes data to the file. It doesn't compress: the bytes will be wanted
// again soon, by this process.
func (s *staging) store(dir string, data []byte) (ref int, err error) {
	f, b, err := s.reserve(dir, len(data))
	if err != nil {
		return 0, err
	}
	b.sum = xxhash.Sum64(data)
	if _, err := f.WriteAt(data, b.off); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done()
		return 0, fmt.Errorf("write staging file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	ref = s.last
	if s.blocks == nil {
		s.blocks = make(map[int]staged)
	}
	s.blocks[ref] = b
	return ref, nil
}

// reserve finds a place for n bytes.
func (s *staging) reserve(dir string, n int) (*os.File, staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, staged{}, errStagingClosed
	}
	if s.file == nil {
		f, err := os.CreateTemp(dir, "staged-*")
		if err != nil {
			return nil, staged{}, fmt.Errorf("create staging file: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			_ = f.Close() // the first error says it
			return nil, staged{}, fmt.Errorf("unlink staging file: %w", err)
		}
		s.file = f
	}
	b := staged{off: s.end, size: n}
	s.end += int64(n)
	s.live++
	return s.file, b, nil
}

// size is that of a staged block.
func (s *staging) size(ref int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.blocks[ref].size)
}

// load reads a staged block into a chunk, and forgets it.
func (s *staging) load(budget *membudget.Budget, ref int) ([]byte, error) {
	s.mu.Lock()
	f, b, closed := s.file, s.blocks[ref], s.closed
	s.mu.Unlock()
	if closed {
		return nil, errStagingClosed
	}
	data := budget.Chunk(b.size)[:b.size]
	_, err := f.ReadAt(data, b.off)
	if err == nil && xxhash.Sum64(data) != b.sum {
		err = errors.New("wrong checksum")
	}
	if err != nil {
		budget.Free(data)
		return nil, fmt.Errorf("read staging file: %w", err)
	}
	s.discard(ref)
	return data, nil
}

// discard forgets a staged block.
func (s *staging) discard(ref int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blocks[ref]; ok {
		delete(s.blocks, ref)
		s.done()
	}
}

// done counts a block less, and gives the disk's room back after the last one.
// (s.mu is held.)
func (s *staging) done() {
	s.live--
	if s.live == 0 && s.file != nil {
		_ = s.file.Close() // it has no name: closing removes it
		s.file, s.end = nil, 0
	}
}

// close removes the file. Later calls of store and load fail.
func (s *staging) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file != nil {
		_ = s.file.Close() // it has no name: closing removes it
		s.file = nil
	}
	s.blocks = nil
}
