package membudget

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Chunks come in powers of two between these, and from pools; larger ones are
// made to measure (a multiple of the largest class's half) and left to the
// garbage collector.
const (
	MinChunk = 512
	MaxChunk = 256 << 10

	minShift = 9
	classes  = 10
)

// pools hold the first byte of free chunks, one pool per size: a pointer goes
// into a sync.Pool without allocating, a slice doesn't.
var pools [classes]sync.Pool

// ChunkSize is the capacity of the chunk that holds n bytes.
func ChunkSize(n int) int {
	if n <= MinChunk {
		return MinChunk
	}
	if n > MaxChunk {
		const grain = MaxChunk / 2
		return (n + grain - 1) / grain * grain
	}
	return 1 << bits.Len(uint(n-1))
}

// Chunk takes an empty slice with room for n bytes, whose capacity is
// ChunkSize(n), left or not.
func (b *Budget) Chunk(n int) []byte {
	size := ChunkSize(n)
	b.Take(int64(size))
	return fromPool(size)
}

// TryChunk is Chunk that gives nil when fewer than ChunkSize(n) bytes are left.
func (b *Budget) TryChunk(n int) []byte {
	size := ChunkSize(n)
	if !b.TryTake(int64(size)) {
		return nil
	}
	return fromPool(size)
}

// Free gives a chunk back. Nobody may use its bytes any more. A nil chunk is
// fine.
func (b *Budget) Free(chunk []byte) {
	size := cap(chunk)
	if size == 0 {
		return
	}
	b.Give(int64(size))
	if size <= MaxChunk {
		pools[class(size)].Put(unsafe.Pointer(unsafe.SliceData(chunk)))
	}
}

func fromPool(size int) []byte {
	if size <= MaxChunk {
		if p, _ := pools[class(size)].Get().(unsafe.Pointer); p != nil {
			return unsafe.Slice((*byte)(p), size)[:0]
		}
	}
	return make([]byte, 0, size)
}

// class is the number of the pool for chunks of size, a power of two.
func class(size int) int { return bits.TrailingZeros(uint(size)) - minShift }
