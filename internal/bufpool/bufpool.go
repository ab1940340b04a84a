// Package bufpool keeps byte buffers to use again, by powers of two.
//
// Unlike gRPC's own pools it leaves old bytes in them: they are overwritten
// anyway, and clearing a megabyte costs as much as copying it. What it holds is
// the garbage collector's to take.
package bufpool

import (
	"math/bits"
	"sync"
)

// A Pool keeps buffers of some sizes. It implements gRPC's mem.BufferPool and
// may be used by any goroutine.
type Pool struct {
	least  int         // bits of the smallest buffers
	byBits []sync.Pool // of *[]byte
}

// New returns an empty pool of buffers of 1<<least to 1<<most bytes. Smaller
// ones are made as large as the least; larger ones are not kept.
func New(least, most int) *Pool {
	return &Pool{least: least, byBits: make([]sync.Pool, most+1)}
}

// Get returns a buffer of that length, with any content.
func (p *Pool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), p.least)
	if class >= len(p.byBits) {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.byBits[class].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<class)
	return &b
}

// Put takes a buffer back. Nobody may use it any more.
func (p *Pool) Put(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1
	if class < p.least || class >= len(p.byBits) || cap(*b) != 1<<class {
		return // too large to keep, or a stranger's
	}
	p.byBits[class].Put(b)
}
