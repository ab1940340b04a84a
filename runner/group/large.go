package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"trestle/internal/membudget"

	"github.com/cespare/xxhash/v2"
)

// pageBytes is how much of a tail is given at once, unless one value is larger.
const pageBytes = 1 << 20

// A Large serves the tails of large groups to state requests: the key of a
// StateKey.Runner is the token. It outlives its Grouper, until Close. It is
// safe for concurrent use.
type Large struct {
	budget *membudget.Budget
	dir    string

	mu     sync.Mutex
	tails  map[uint64]*tail
	made   uint64 // tokens count from 0
	closed bool
}

// A tail is what follows the values that are sent with a large group. It lies
// in a file without a name, and doesn't change once it has a token.
type tail struct {
	f     *os.File
	end   int64
	pages []page
}

// A page is some whole values.
type page struct {
	off   int64
	size  int
	count int
	sum   uint64
}

func newLarge(budget *membudget.Budget, dir string) *Large {
	return &Large{budget: budget, dir: dir, tails: make(map[uint64]*tail)}
}

// Get gives encoded values of a tail, whole ones, and the continuation for the
// values after them, nil at the end. A nil continuation begins at the first
// value; any page may be asked for any number of times.
func (l *Large) Get(token, continuation []byte) (values, next []byte, err error) {
	if len(token) != 8 || len(continuation) != 0 && len(continuation) != 8 {
		return nil, nil, fmt.Errorf("malformed token %x or continuation %x of an iterable", token, continuation)
	}
	l.mu.Lock()
	t := l.tails[binary.BigEndian.Uint64(token)]
	l.mu.Unlock()
	if t == nil {
		return nil, nil, fmt.Errorf("unknown token %x of an iterable: its bundle has ended", token)
	}
	var at uint64
	if len(continuation) > 0 {
		at = binary.BigEndian.Uint64(continuation)
	}
	if at >= uint64(len(t.pages)) {
		return nil, nil, fmt.Errorf("continuation %x is beyond the end of iterable %x", continuation, token)
	}
	values, err = t.read(nil, int(at))
	if err != nil {
		return nil, nil, err
	}
	if at++; at < uint64(len(t.pages)) {
		next = binary.BigEndian.AppendUint64(nil, at)
	}
	return values, next, nil
}

// read appends a page's values to dst.
func (t *tail) read(dst []byte, at int) ([]byte, error) {
	p := &t.pages[at]
	n := len(dst)
	dst = slices.Grow(dst, p.size)[:n+p.size]
	if _, err := t.f.ReadAt(dst[n:], p.off); err != nil {
		return dst[:n], fmt.Errorf("read the tail of a large group: %w", err)
	}
	if xxhash.Sum64(dst[n:]) != p.sum {
		return dst[:n], errors.New("read the tail of a large group: wrong checksum")
	}
	return dst, nil
}

// Mark counts the tails that were made so far. Note it before and after a
// bundle's input is taken from Next.
func (l *Large) Mark() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

// Release frees the tails made between two marks. Do so when the bundle they
// went to can't run again.
func (l *Large) Release(from, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; from < to; from++ {
		l.drop(from)
	}
}

// Close frees all tails. Later calls of Get fail.
func (l *Large) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for token := range l.tails {
		l.drop(token)
	}
}

// drop frees a tail. A Get that is reading it fails. (l.mu is held.)
func (l *Large) drop(token uint64) {
	if t := l.tails[token]; t != nil {
		t.close()
		delete(l.tails, token)
	}
}

func (t *tail) close() { _ = t.f.Close() } // it was only a store for this process

// put gives a finished tail its token.
func (l *Large) put(t *tail) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		t.close()
		return nil, errors.New("large groups are closed")
	}
	l.tails[l.made] = t
	l.made++
	return binary.BigEndian.AppendUint64(nil, l.made-1), nil
}

// A tailWriter makes a tail.
type tailWriter struct {
	budget *membudget.Budget
	tail   tail
	page   []byte // a chunk
	count  int    // of values in page
}

func (l *Large) newTail() (*tailWriter, error) {
	f, err := os.CreateTemp(l.dir, "tail-*")
	if err != nil {
		return nil, fmt.Errorf("create file for a large group: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // the first error says it
		return nil, fmt.Errorf("unlink file for a large group: %w", err)
	}
	return &tailWriter{budget: l.budget, tail: tail{f: f}, page: l.budget.Chunk(pageBytes)}, nil
}

// add appends some whole values.
func (w *tailWriter) add(values []byte, count int) error {
	if len(w.page) > 0 && len(w.page)+len(values) > pageBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(values) > cap(w.page) {
		w.budget.Free(w.page)
		w.page = w.budget.Chunk(len(values))
	}
	w.page = append(w.page, values...)
	w.count += count
	return nil
}

func (w *tailWriter) flush() error {
	if w.count == 0 {
		return nil
	}
	t := &w.tail
	if _, err := t.f.WriteAt(w.page, t.end); err != nil {
		return fmt.Errorf("write file of a large group: %w", err)
	}
	t.pages = append(t.pages, page{off: t.end, size: len(w.page), count: w.count, sum: xxhash.Sum64(w.page)})
	t.end += int64(len(w.page))
	w.page, w.count = w.page[:0], 0
	return nil
}

// finish gives the tail.
func (w *tailWriter) finish() (*tail, error) {
	err := w.flush()
	w.budget.Free(w.page)
	w.page = nil
	if err != nil {
		w.tail.close()
		return nil, err
	}
	return &w.tail, nil
}

// abandon frees everything.
func (w *tailWriter) abandon() {
	w.budget.Free(w.page)
	w.tail.close()
}
