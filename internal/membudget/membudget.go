// Package membudget shares out the bytes that a process may hold for data.
//
// One Budget is made from --memory and handed to everything that buffers
// elements: shuffle writers, groupers, side-input caches, bundles. Who can
// spill asks with TryTake and spills when refused; who can't, because it needs
// the bytes to make progress at all, uses Take, which always succeeds, and
// keeps its takings small. Take and TryTake are safe for concurrent use and
// cost one atomic operation: take for a buffer, never for an element.
package membudget

import "sync/atomic"

// A Budget counts bytes. The zero value refuses everything; use New.
type Budget struct {
	limit   int64
	used    atomic.Int64
	spilled atomic.Int64
}

// New returns a budget of limit bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// Limit is the number of bytes there are in all.
func (b *Budget) Limit() int64 { return b.limit }

// Used is the number of bytes taken and not given back.
func (b *Budget) Used() int64 { return b.used.Load() }

// TryTake takes n bytes unless fewer are left.
func (b *Budget) TryTake(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// Take takes n bytes, left or not.
func (b *Budget) Take(n int64) { b.used.Add(n) }

// Give gives back n bytes taken before.
func (b *Budget) Give(n int64) { b.used.Add(-n) }

// Spilled notes n bytes that were written to disk for want of memory.
func (b *Budget) Spilled(n int64) { b.spilled.Add(n) }

// SpilledBytes is the number of bytes that were written to disk for want of
// memory.
func (b *Budget) SpilledBytes() int64 { return b.spilled.Load() }
