package task

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"trestle/internal/membudget"

	"github.com/cespare/xxhash/v2"
)

// ledgerBytes is how much of what a task has taken stays in memory; a variable
// for tests.
var ledgerBytes = 256 << 10

// A ledger keeps what a queue must remember, and hardly ever needs again: the
// elements that its tasks have taken. What is more than a little goes to a file
// without a name; the rest is counted by the budget. The queue's lock guards it.
type ledger struct {
	dir    string
	budget *membudget.Budget
	held   int64 // bytes of the budget
	file   *os.File
	end    int64
	closed bool
}

// A page is some elements in the ledger's file.
type page struct {
	off  int64
	size int
	sum  uint64
}

// count notes that n bytes more, or fewer, are in memory.
func (l *ledger) count(n int) {
	l.held += int64(n)
	l.budget.Take(int64(n))
}

// elementBytes is what an element takes in memory beside its bytes.
const elementBytes = 64

func sizeOf(elements ...[]byte) int {
	n := 0
	for _, e := range elements {
		n += len(e) + elementBytes
	}
	return n
}

// write puts elements into the file.
func (l *ledger) write(elements [][]byte) (page, error) {
	if l.closed {
		return page{}, errNoQueue
	}
	if l.file == nil {
		f, err := os.CreateTemp(l.dir, "queue-*")
		if err != nil {
			return page{}, fmt.Errorf("create file of a queue: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			return page{}, errors.Join(fmt.Errorf("unlink file of a queue: %w", err), f.Close())
		}
		l.file = f
	}
	var b []byte
	for _, e := range elements {
		b = binary.AppendUvarint(b, uint64(len(e)))
		b = append(b, e...)
	}
	p := page{off: l.end, size: len(b), sum: xxhash.Sum64(b)}
	if _, err := l.file.WriteAt(b, p.off); err != nil {
		return page{}, fmt.Errorf("write file of a queue: %w", err)
	}
	l.end += int64(len(b))
	l.budget.Spilled(int64(len(b)))
	return p, nil
}

// read gives the elements of a page.
func (p page) read(f *os.File) ([][]byte, error) {
	b := make([]byte, p.size)
	if _, err := f.ReadAt(b, p.off); err != nil {
		return nil, fmt.Errorf("read file of a queue: %w", err)
	}
	if xxhash.Sum64(b) != p.sum {
		return nil, errors.New("read file of a queue: wrong checksum")
	}
	var elements [][]byte
	for len(b) > 0 {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return nil, errors.New("read file of a queue: an element is cut")
		}
		b = b[used:]
		elements = append(elements, b[:n:n])
		b = b[n:]
	}
	return elements, nil
}

// close gives everything back. Whoever reads a page meanwhile gets an error.
func (l *ledger) close() {
	l.closed = true
	l.budget.Give(l.held)
	l.held = 0
	if l.file != nil {
		_ = l.file.Close() // it has no name: closing removes it
		l.file = nil
	}
}
