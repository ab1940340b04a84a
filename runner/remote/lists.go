package remote

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"unsafe"

	"trestle/runner/jobgraph"
)

// Tasks that read a whole dataset share the list of its partitions, and a
// thousand of them must not send it a thousand times. A lender knows a list
// again by where it lies in memory: lists are read only, and the lender keeps
// those that it has sent, so that no other can come to lie there.

// A ref stands for a list: short and here, or some of a shared one.
type ref struct {
	Inline []byte `json:"inline,omitempty"`
	List   uint64 `json:"list,omitempty"` // 0: inline
	Lo     int    `json:"lo,omitempty"`
	Hi     int    `json:"hi,omitempty"`
}

// A piece is more of a shared list.
type piece struct {
	List  uint64 `json:"list"`
	Names bool   `json:"names,omitempty"` // it is one of names, not of partitions
	Items []byte `json:"items"`
}

const (
	shareFrom   = 16      // length from where on a list is shared
	pieceLength = 1 << 15 // entries
	// listEntries is how many entries of shared lists the two ends remember,
	// unless a single list is longer.
	listEntries = 1 << 20
	maxEntries  = 1 << 26
)

// A shared list is one that the other end knows.
type shared struct {
	id         uint64
	start, end uintptr // where it lies
	length     int
	keep       any // the list itself
	names      bool
	inUse      uint64        // the last column that it was needed for
	age        *list.Element // in lender.ages
}

// A lender is the JobManager's end of shared lists, for one session.
type lender struct {
	limit  int
	say    func(command) // gets pieces and drops, in order
	last   uint64        // id
	column uint64        // counts calls of begin
	total  int           // entries; at most limit unless one column needs more
	ages   *list.List    // of *shared; the one used last is in front
	// places are all lists by where they begin.
	places []*shared
}

func newLender(limit int, say func(command)) *lender {
	if limit <= 0 || limit > listEntries {
		limit = listEntries
	}
	return &lender{limit: limit, say: say, ages: list.New()}
}

// begin says that another column of tasks follows: what earlier ones needed may
// be forgotten.
func (l *lender) begin() { l.column++ }

// refer gives a ref to a list that the other end can resolve when it comes to
// it.
func refer[T any](l *lender, items []T, names bool, encode func([]T) []byte) *ref {
	if items == nil {
		return nil
	}
	if len(items) < shareFrom {
		return &ref{Inline: encode(items)}
	}
	size := unsafe.Sizeof(items[0])
	start := uintptr(unsafe.Pointer(unsafe.SliceData(items)))
	end := start + size*uintptr(len(items))
	s := l.find(start, end)
	if s == nil {
		s = l.add(&shared{start: start, end: end, length: len(items), keep: items, names: names})
		for part := range slices.Chunk(items, pieceLength) {
			l.say(command{Piece: &piece{List: s.id, Names: names, Items: encode(part)}})
		}
	}
	s.inUse = l.column
	l.ages.MoveToFront(s.age)
	lo := int((start - s.start) / size)
	return &ref{List: s.id, Lo: lo, Hi: lo + len(items)}
}

// after is the place behind all lists that begin at p or before it.
func (l *lender) after(p uintptr) int {
	return sort.Search(len(l.places), func(i int) bool { return l.places[i].start > p })
}

// find gives a list that has all of the memory.
func (l *lender) find(start, end uintptr) *shared {
	at := l.after(start)
	// Parts of a list that were sent before it lie between; not finding it for
	// them costs no more than sending once again.
	for i := at - 1; i >= max(0, at-8); i-- {
		if s := l.places[i]; end <= s.end {
			return s
		}
	}
	return nil
}

// add makes room for a list and notes it.
func (l *lender) add(s *shared) *shared {
	var gone []uint64
	for l.total+s.length > l.limit {
		oldest := l.ages.Back()
		if oldest == nil || oldest.Value.(*shared).inUse == l.column {
			break // all that is left is needed now
		}
		gone = append(gone, l.forget(oldest.Value.(*shared)))
	}
	if len(gone) > 0 {
		l.say(command{Drop: gone})
	}
	l.last++
	s.id = l.last
	l.total += s.length
	s.age = l.ages.PushFront(s)
	l.places = slices.Insert(l.places, l.after(s.start), s)
	return s
}

func (l *lender) forget(s *shared) uint64 {
	l.ages.Remove(s.age)
	l.total -= s.length
	for i := l.after(s.start) - 1; ; i-- {
		if l.places[i] == s {
			l.places = slices.Delete(l.places, i, i+1)
			return s.id
		}
	}
}

// A borrower is the TaskManager's end.
type borrower struct {
	partitions map[uint64][]jobgraph.Partition
	names      map[uint64][]string
	total      int
}

func newBorrower() *borrower {
	return &borrower{partitions: map[uint64][]jobgraph.Partition{}, names: map[uint64][]string{}}
}

// take adds a piece.
func (b *borrower) take(p *piece) error {
	var err error
	n := b.length(p.List)
	if p.Names {
		b.names[p.List], err = appendNames(b.names[p.List], p.Items)
	} else {
		b.partitions[p.List], err = appendPartitions(b.partitions[p.List], p.Items)
	}
	b.total += b.length(p.List) - n
	if err == nil && b.total > maxEntries {
		err = fmt.Errorf("more than %d entries of lists", maxEntries)
	}
	return err
}

func (b *borrower) length(id uint64) int { return len(b.partitions[id]) + len(b.names[id]) }

func (b *borrower) drop(ids []uint64) {
	for _, id := range ids {
		b.total -= b.length(id)
		delete(b.partitions, id)
		delete(b.names, id)
	}
}

// resolve gives the list that a ref stands for.
func resolve[T any](r *ref, lists map[uint64][]T, decode func([]T, []byte) ([]T, error)) ([]T, error) {
	switch {
	case r == nil:
		return nil, nil
	case r.List == 0:
		return decode([]T{}, r.Inline)
	}
	l, there := lists[r.List]
	if !there || r.Lo < 0 || r.Lo > r.Hi || r.Hi > len(l) {
		return nil, fmt.Errorf("entries %d to %d of list %d, which has %d", r.Lo, r.Hi, r.List, len(l))
	}
	return l[r.Lo:r.Hi:r.Hi], nil
}

var errList = errors.New("a list is garbled")

// encodePartitions writes each as the step from the one before.
func encodePartitions(ps []jobgraph.Partition) []byte {
	b := make([]byte, 0, 2*len(ps)+8)
	last := 0
	for _, p := range ps {
		b = binary.AppendVarint(b, int64(p.Index-last))
		b = binary.AppendUvarint(b, uint64(p.Attempt))
		last = p.Index
	}
	return b
}

func appendPartitions(ps []jobgraph.Partition, b []byte) ([]jobgraph.Partition, error) {
	ps = slices.Grow(ps, len(b)/2)
	last := int64(0)
	for len(b) > 0 {
		step, n := binary.Varint(b)
		if n <= 0 {
			return nil, errList
		}
		attempt, m := binary.Uvarint(b[n:])
		last += step
		if m <= 0 || last < 0 || last > math.MaxInt32 || attempt > math.MaxUint32 {
			return nil, errList
		}
		b = b[n+m:]
		ps = append(ps, jobgraph.Partition{Index: int(last), Attempt: uint32(attempt)})
	}
	return ps, nil
}

// encodeNames writes runs of equal names: how many, and the name or, if it has
// come before, the number of its first coming.
func encodeNames(names []string) []byte {
	var b []byte
	known := map[string]uint64{}
	for i := 0; i < len(names); {
		run := i
		for i < len(names) && names[i] == names[run] {
			i++
		}
		b = binary.AppendUvarint(b, uint64(i-run))
		if n, ok := known[names[run]]; ok {
			b = binary.AppendUvarint(b, n)
			continue
		}
		known[names[run]] = uint64(len(known)) + 1
		b = binary.AppendUvarint(b, 0)
		b = binary.AppendUvarint(b, uint64(len(names[run])))
		b = append(b, names[run]...)
	}
	return b
}

func appendNames(names []string, b []byte) ([]string, error) {
	var known []string
	before := len(names)
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return math.MaxUint64
		}
		b = b[n:]
		return v
	}
	for len(b) > 0 {
		run, number := next(), next()
		if number == 0 {
			length := next()
			if length > uint64(len(b)) {
				return nil, errList
			}
			known = append(known, string(b[:length]))
			b = b[length:]
			number = uint64(len(known))
		}
		if run == 0 || run > uint64(pieceLength-(len(names)-before)) || number > uint64(len(known)) {
			return nil, errList
		}
		for range run {
			names = append(names, known[number-1])
		}
	}
	return names, nil
}
