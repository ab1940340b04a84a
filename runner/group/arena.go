package group

import (
	"unsafe"

	"trestle/internal/membudget"
)

const (
	unit     = 8                   // addresses count units
	maxShift = 15                  // log2 of the units of the largest chunk
	minShift = 9                   // and of the smallest
	maxAddr  = 1<<32 - 1<<maxShift // of a chunk's begin
	// floor is what a Grouper takes though there is no budget: with less, runs
	// would be so small that merging them costs more than sorting.
	floor = 2 << 20
)

// An arena hands out memory that is freed all at once. It is named by
// addresses of 4 bytes, which the garbage collector doesn't follow. What
// doesn't fit a chunk gets one of its own.
type arena struct {
	budget *membudget.Budget
	most   int64 // bytes of chunks and others, if the budget has them
	others int64 // bytes that the arena's owner holds
	shift  uint  // log2 of units per chunk

	chunks [][]byte // at their full length
	used   int      // bytes of the open chunk
	open   int      // the chunk that small pieces come from
	bytes  int64    // of all chunks
	force  bool     // take what is asked for, whatever the budget says
}

func newArena(budget *membudget.Budget, most int64) arena {
	a := arena{budget: budget, most: most, shift: minShift}
	for a.shift < maxShift && int64(unit)<<a.shift < most/32 {
		a.shift++
	}
	return a
}

func (a *arena) chunkSize() int { return unit << a.shift }

// alloc gives n bytes, or false if the arena is full. Address 0 is never
// given.
func (a *arena) alloc(n int) (addr uint32, b []byte, ok bool) {
	n = (n + unit - 1) &^ (unit - 1)
	if n <= a.chunkSize()-a.used && len(a.chunks) > 0 {
		b = a.chunks[a.open][a.used:][:n:n]
		addr = uint32(a.open<<a.shift | a.used/unit)
		a.used += n
		return addr, b, true
	}
	return a.allocSlow(n)
}

func (a *arena) allocSlow(n int) (addr uint32, b []byte, ok bool) {
	size := a.chunkSize()
	first := 0
	if len(a.chunks) == 0 {
		first = unit // so that address 0 is nobody's
	}
	own := n > size-first
	if own {
		size = n
		if first > 0 && !a.addChunk(a.chunkSize()) {
			return 0, nil, false
		}
	}
	if !a.addChunk(size) {
		return 0, nil, false
	}
	at := len(a.chunks) - 1
	if own {
		if first > 0 {
			a.open, a.used = 0, first
		}
		return uint32(at << a.shift), a.chunks[at][:n:n], true
	}
	a.open, a.used = at, first+n
	return uint32(at<<a.shift | first/unit), a.chunks[at][first:][:n:n], true
}

// addChunk takes a chunk from the budget, or whatever the budget says if the
// arena has next to nothing.
func (a *arena) addChunk(n int) bool {
	size := int64(membudget.ChunkSize(n))
	if len(a.chunks)+1 > maxAddr>>a.shift {
		return false
	}
	var chunk []byte
	switch {
	case a.force || a.bytes+size <= min(floor, a.most):
		chunk = a.budget.Chunk(n)
	case a.bytes+a.others+size > a.most:
		return false
	default:
		if chunk = a.budget.TryChunk(n); chunk == nil {
			return false
		}
	}
	a.chunks = append(a.chunks, chunk[:cap(chunk)])
	a.bytes += size
	return true
}

// at gives what begins at addr, to the end of its chunk.
func (a *arena) at(addr uint32) []byte {
	return a.chunks[addr>>a.shift][(addr&(1<<a.shift-1))*unit:]
}

// pointer is the address of addr in memory.
func (a *arena) pointer(addr uint32) unsafe.Pointer {
	return unsafe.Pointer(&a.chunks[addr>>a.shift][(addr&(1<<a.shift-1))*unit])
}

// reset frees everything.
func (a *arena) reset() {
	for i, c := range a.chunks {
		a.budget.Free(c)
		a.chunks[i] = nil
	}
	a.chunks = a.chunks[:0]
	a.used, a.open, a.bytes = 0, 0, 0
}
