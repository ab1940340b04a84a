package state

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"trestle/internal/membudget"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// A Store is the disk behind all Tables of a process: one LSM tree, which is
// made when the first of them has more than memory holds. It has no log of its
// own: what is in it dies with the process, as what is in memory does. It is
// safe for concurrent use.
type Store struct {
	dir    string
	budget *membudget.Budget

	mu     sync.Mutex
	db     *pebble.DB // nil until it is needed
	path   string
	last   uint64 // number of a table
	taken  int64
	closed bool
}

// NewStore returns a store that keeps its files below dir. Close it when the
// last of its tables is closed.
func NewStore(dir string, budget *membudget.Budget) *Store {
	return &Store{dir: dir, budget: budget}
}

// number gives a table the prefix of its keys.
func (s *Store) number() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return s.last
}

// Bounds of what the tree has in memory, which is a part of the budget. Large
// buffers are what spares it most: keys go to disk in large numbers, and few come
// back soon.
const (
	leastBuffer = 256 << 10
	mostBuffer  = 64 << 20
	leastCache  = 256 << 10
	mostCache   = 64 << 20
	buffers     = 2 // one is filled while the other is written
)

// tree opens the LSM tree.
func (s *Store) tree() (*pebble.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.db != nil:
		return s.db, nil
	case s.closed:
		return nil, os.ErrClosed
	}
	path, err := os.MkdirTemp(s.dir, "keys-*")
	if err != nil {
		return nil, fmt.Errorf("make room for state on disk: %w", err)
	}
	buffer := min(max(s.budget.Limit()/10, leastBuffer), mostBuffer)
	cache := min(max(s.budget.Limit()/8, leastCache), mostCache)
	o := &pebble.Options{
		// The tree takes its buffers' memory from that of its cache: without their
		// part there would be no cache, and each look for a key would read an index.
		CacheSize:                   cache + buffers*buffer,
		DisableWAL:                  true,
		MemTableSize:                uint64(buffer),
		MemTableStopWritesThreshold: buffers,
		LBaseMaxBytes:               8 * buffer,
		MaxOpenFiles:                512,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      silent{},
	}
	for i := range o.Levels {
		o.TargetFileSizes[i] = min(max(buffer/4, 2<<20)<<i, 64<<20)
		// Most keys that are asked for have never been seen.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].IndexBlockSize = 256 << 10 // one level of index: a block less to read
	}
	db, err := pebble.Open(path, o)
	if err != nil {
		_ = os.RemoveAll(path) // the first error says it
		return nil, fmt.Errorf("open state on disk: %w", err)
	}
	s.db, s.path, s.taken = db, path, cache+buffers*buffer
	s.budget.Take(s.taken)
	outside(s.taken)
	return db, nil
}

var outsideMu sync.Mutex

// outside tells the collector of memory that it doesn't see: that of the tree is
// not Go's.
func outside(bytes int64) {
	outsideMu.Lock()
	defer outsideMu.Unlock()
	debug.SetMemoryLimit(debug.SetMemoryLimit(-1) - bytes)
}

// Close removes all there is. No table may be used any more.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	s.budget.Give(s.taken)
	outside(-s.taken)
	if rm := os.RemoveAll(s.path); err == nil {
		err = rm
	}
	if err != nil {
		return fmt.Errorf("close state on disk: %w", err)
	}
	return nil
}

// tight reports whether memory is wanted. A quarter of the budget is left to
// what can't be put aside.
func (s *Store) tight() bool { return s.budget.Used() > s.budget.Limit()/4*3 }

// silent keeps what the tree says of its work out of the log.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

// Fatalf is called where the tree finds its own memory broken.
func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
