package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// A shelf has the segments of bags that are not in memory. It is safe for
// concurrent use.
type shelf interface {
	// write keeps bytes, and tells where.
	write(b []byte) (off int64, err error)
	// read gives what was written; the bytes are the caller's. They may be
	// corrupt.
	read(seg *segment) ([]byte, error)
	drop(seg *segment) error
}

// A spill is a temporary file that grows until it is reset. It is made when it
// is first written to.
type spill struct {
	dir string

	used atomic.Bool // something is in the file

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
	s.used.Store(true)
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
	return b, nil
}

// drop does nothing: the file ends when it is reset.
func (s *spill) drop(*segment) error { return nil }

func (s *spill) reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == 0 {
		return nil
	}
	s.end = 0
	s.used.Store(false)
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

// A treeShelf keeps segments in a Store, under numbers.
type treeShelf struct {
	store  *Store
	prefix []byte
	last   atomic.Int64
}

func (t *treeShelf) name(off int64) []byte {
	return binary.BigEndian.AppendUint64(slices.Clip(t.prefix), uint64(off))
}

func (t *treeShelf) write(b []byte) (off int64, err error) {
	db, err := t.store.tree()
	if err != nil {
		return 0, err
	}
	off = t.last.Add(1)
	if err := db.Set(t.name(off), b, pebble.NoSync); err != nil {
		return 0, fmt.Errorf("write state to disk: %w", err)
	}
	t.store.budget.Spilled(int64(len(b)))
	return off, nil
}

func (t *treeShelf) read(seg *segment) ([]byte, error) {
	db, err := t.store.tree()
	if err != nil {
		return nil, err
	}
	b, closer, err := db.Get(t.name(seg.off))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, errCorrupt
	}
	if err != nil {
		return nil, fmt.Errorf("read state from disk: %w", err)
	}
	b = slices.Clone(b)
	return b, closer.Close()
}

func (t *treeShelf) drop(seg *segment) error {
	db, err := t.store.tree()
	if err != nil {
		return err
	}
	if err := db.Delete(t.name(seg.off), pebble.NoSync); err != nil {
		return fmt.Errorf("drop state on disk: %w", err)
	}
	return nil
}
