package shuffle

import (
	"context"
	"fmt"

	"trestle/internal/invariant"
	"trestle/shuffle/driver"
)

// txnBytes is how much a Txn holds in memory before it stages it, even if the
// budget would give more: a bundle's output is cold until its commit.
const txnBytes = 16 << 20

// A Txn stages what one bundle writes. Nothing is seen by readers before
// Commit has returned nil. It spills by itself when it grows. One goroutine
// owns it, from Begin to Commit or Abort; a Txn that has ended belongs to its
// Writer again and must not be touched.
type Txn struct {
	w       *Writer
	bufs    []buffer       // by sub-partition
	blocks  []driver.Block // cut from bufs, in order; staged or not
	held    int            // capacity of all chunks in bufs and blocks
	count   int64
	bySub   []int64 // bytes appended
	aborted bool
	ended   bool
}

// Append copies one or more whole elements. It takes no lock and allocates
// nothing in the steady state. After an error the Txn can only be aborted.
func (t *Txn) Append(sub int, elems []byte, count int) error {
	b := &t.bufs[sub]
	if len(b.data)+len(elems) > cap(b.data) {
		if err := t.room(sub, len(elems)); err != nil {
			return err
		}
	}
	b.data = append(b.data, elems...)
	b.count += count
	t.bySub[sub] += int64(len(elems))
	t.count += int64(count)
	return nil
}

// Count is the number of elements appended.
func (t *Txn) Count() int64 { return t.count }

// room makes room for n bytes more in the buffer of sub.
func (t *Txn) room(sub, n int) error {
	budget, b := t.w.budget, &t.bufs[sub]
	if len(b.data) > 0 && len(b.data)+n > blockBytes {
		t.cut(sub)
	}
	if t.held > txnBytes {
		if err := t.spill(); err != nil {
			return err
		}
	}
	want := max(len(b.data)+n, min(4*cap(b.data), blockBytes))
	data := budget.TryChunk(want)
	if data == nil {
		if err := t.spill(); err != nil {
			return err
		}
		data = budget.Chunk(len(b.data) + n) // the least, whether there is some or not
	}
	data = append(data, b.data...)
	t.held += cap(data) - cap(b.data)
	budget.Free(b.data)
	b.data = data
	return nil
}

// cut makes a block of the buffer of sub.
func (t *Txn) cut(sub int) {
	b := &t.bufs[sub]
	t.blocks = append(t.blocks, driver.Block{Sub: sub, Count: b.count, Data: b.data})
	*b = buffer{}
}

// spill takes out of memory what is worth a block, and all if that isn't
// enough.
func (t *Txn) spill() error {
	for sub := range t.bufs {
		if len(t.bufs[sub].data) >= leastBlockBytes {
			t.cut(sub)
		}
	}
	if err := t.stage(); err != nil || t.held <= txnBytes/2 {
		return err
	}
	t.cutAll()
	return t.stage()
}

func (t *Txn) cutAll() {
	for sub := range t.bufs {
		if len(t.bufs[sub].data) > 0 {
			t.cut(sub)
		}
	}
}

// stage hands all blocks to the driver.
func (t *Txn) stage() error {
	for i := range t.blocks {
		b := &t.blocks[i]
		if b.Staged() {
			continue
		}
		t.held -= cap(b.Data)
		if err := t.w.part.Stage(b); err != nil {
			return fmt.Errorf("write to partition %v: %w", t.w.id, err)
		}
	}
	return nil
}

// allBlocks cuts what is left and gives everything in order.
func (t *Txn) allBlocks() []driver.Block {
	t.cutAll()
	return t.blocks
}

// Commit makes all that was appended part of the partition. To a pipelined
// partition it waits for the readers' room, until ctx ends. After an error of
// one Txn the whole partition can only be aborted.
func (t *Txn) Commit(ctx context.Context) error {
	t.finish()
	return t.w.commit(ctx, t)
}

// Abort drops all that was appended.
func (t *Txn) Abort() {
	t.finish()
	t.aborted = true
	t.drop()
	_ = t.w.end(t, nil) // an abort has nothing that can fail
}

func (t *Txn) finish() {
	invariant.Check(!t.ended, "transaction on partition %v ends twice", t.w.id)
	t.ended = true
}

// drop frees what the Txn holds, staged and not.
func (t *Txn) drop() {
	t.w.part.Discard(t.blocks)
	for i := range t.blocks {
		t.w.budget.Free(t.blocks[i].Data)
	}
	t.forget()
}

// forget empties the Txn, whose blocks belong to others now.
func (t *Txn) forget() {
	clear(t.blocks)
	t.blocks = t.blocks[:0]
	for sub := range t.bufs {
		t.w.budget.Free(t.bufs[sub].data)
		t.bufs[sub] = buffer{}
	}
	t.held = 0
}
