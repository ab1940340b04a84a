package shuffle

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"trestle/internal/invariant"
	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

const (
	// blockBytes is where a block is cut. Larger ones compress hardly better,
	// and make more of a reader's range that it must hold at once.
	blockBytes = 128 << 10
	// leastBlockBytes is how small a block is cut when memory is short.
	leastBlockBytes = 16 << 10
)

// A Writer writes one partition. Begin may be called from several goroutines;
// each Txn belongs to one.
type Writer struct {
	id        PartitionID
	part      driver.Partition
	budget    *membudget.Budget
	pipelined bool

	mu     sync.Mutex // guards what follows; held for memory copies only
	open   int        // Txns that have neither committed nor aborted
	ended  bool       // by Close or Abort
	failed error      // of a Commit; the partition can't be closed any more
	sizes  Sizes
	bufs   []buffer // committed, less than a block each; empty when pipelined
	free   []*Txn   // ended ones, for Begin
}

// A buffer collects elements of one sub-partition.
type buffer struct {
	data  []byte // a chunk of the budget, or nil
	count int
}

func newWriter(budget *membudget.Budget, id PartitionID, part driver.Partition, subpartitions int, pipelined bool) *Writer {
	w := &Writer{id: id, part: part, budget: budget, pipelined: pipelined}
	w.sizes.BySub = make([]int64, subpartitions)
	if !pipelined {
		w.bufs = make([]buffer, subpartitions)
	}
	return w
}

// Begin starts a bundle's output. The Txn must end with Commit or Abort.
func (w *Writer) Begin() *Txn {
	w.mu.Lock()
	defer w.mu.Unlock()
	invariant.Check(!w.ended, "Begin on partition %v, which has ended", w.id)
	w.open++
	if n := len(w.free); n > 0 {
		t := w.free[n-1]
		w.free = w.free[:n-1]
		t.ended = false
		return t
	}
	n := len(w.sizes.BySub)
	return &Txn{w: w, bufs: make([]buffer, n), bySub: make([]int64, n)}
}

// Close makes the partition readable once every Txn has ended, and tells its
// size. Bytes are those of the elements, before compression. After an error
// the partition must be aborted.
func (w *Writer) Close(ctx context.Context) (Sizes, error) {
	w.mu.Lock()
	invariant.Check(w.open == 0, "Close of partition %v with %d open transactions", w.id, w.open)
	invariant.Check(!w.ended, "Close of partition %v, which has ended", w.id)
	if err := w.failed; err != nil {
		w.mu.Unlock()
		return Sizes{}, fmt.Errorf("close partition %v: an earlier commit failed: %w", w.id, err)
	}
	w.ended = true // Abort is still possible: the driver decides
	rest := w.takeRemains()
	w.mu.Unlock()

	if err := w.part.Publish(ctx, rest); err != nil {
		return Sizes{}, fmt.Errorf("close partition %v: %w", w.id, err)
	}
	durable, err := w.part.Close()
	if err != nil {
		return Sizes{}, fmt.Errorf("close partition %v: %w", w.id, err)
	}
	w.sizes.Durable = durable
	return w.sizes, nil
}

// takeRemains makes the last, smaller blocks, in chunks that fit them.
func (w *Writer) takeRemains() []driver.Block {
	var rest []driver.Block
	for sub := range w.bufs {
		b := &w.bufs[sub]
		if len(b.data) == 0 {
			w.budget.Free(b.data)
			*b = buffer{}
			continue
		}
		if membudget.ChunkSize(len(b.data)) < cap(b.data) {
			fitting := append(w.budget.Chunk(len(b.data)), b.data...)
			w.budget.Free(b.data)
			b.data = fitting
		}
		rest = append(rest, driver.Block{Sub: sub, Count: b.count, Data: b.data})
		*b = buffer{}
	}
	return rest
}

// Abort gives the partition up and frees all of it; its readers get an error,
// and a Commit that waits for them ends with one. Abort after a Close that
// succeeded does nothing: defer it.
func (w *Writer) Abort() { w.AbortWith(errors.New("its writer gave it up")) }

// AbortWith is Abort with a reason for the readers of a pipelined partition.
func (w *Writer) AbortWith(cause error) {
	w.part.Abort(cause)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for sub := range w.bufs {
		w.budget.Free(w.bufs[sub].data)
		w.bufs[sub] = buffer{}
	}
}

// commit makes a Txn's blocks and remains part of the partition. The caller's
// buffers become the writer's. Its blocks go first: as soon as the remains are
// among those of others, anyone may make a block of them.
func (w *Writer) commit(ctx context.Context, t *Txn) error {
	if w.pipelined {
		err := w.publish(ctx, t.allBlocks())
		t.forget()
		return w.end(t, err)
	}
	w.mu.Lock()
	ended := w.ended
	w.mu.Unlock()
	if ended {
		t.drop()
		return w.end(t, w.givenUp())
	}
	err := w.publish(ctx, t.blocks)
	clear(t.blocks)
	t.blocks = t.blocks[:0]
	if err == nil {
		var blocks []driver.Block
		w.mu.Lock()
		if w.ended {
			err = w.givenUp()
		} else {
			blocks = w.merge(t)
		}
		w.mu.Unlock()
		if err == nil {
			err = w.publish(ctx, blocks)
		}
	}
	t.forget()
	return w.end(t, err)
}

// publish is the driver's, without the lock: it may compress, write, or wait for
// a reader.
func (w *Writer) publish(ctx context.Context, blocks []driver.Block) error {
	if len(blocks) == 0 {
		return nil
	}
	if err := w.part.Publish(ctx, blocks); err != nil {
		return fmt.Errorf("commit to partition %v: %w", w.id, err)
	}
	return nil
}

func (w *Writer) givenUp() error {
	return fmt.Errorf("commit to partition %v: it was given up", w.id)
}

// merge adds a Txn's remains to the writer's own, and gives the blocks that
// are now full.
func (w *Writer) merge(t *Txn) []driver.Block {
	blocks := t.blocks
	for sub := range t.bufs {
		b := &t.bufs[sub]
		if len(b.data) == 0 {
			continue
		}
		blocks = w.add(blocks, sub, b)
	}
	t.blocks = blocks
	return blocks
}

// add moves b's elements into the writer's buffer of sub.
func (w *Writer) add(blocks []driver.Block, sub int, b *buffer) []driver.Block {
	mine := &w.bufs[sub]
	switch {
	case mine.data == nil:
		*mine, *b = *b, buffer{}
	case len(mine.data)+len(b.data) <= cap(mine.data):
		mine.data = append(mine.data, b.data...)
		mine.count += b.count
		b.data, b.count = b.data[:0], 0
	default:
		if !grow(w.budget, mine, len(b.data)) {
			blocks = append(blocks, driver.Block{Sub: sub, Count: mine.count, Data: mine.data})
			*mine, *b = *b, buffer{}
			break
		}
		mine.data = append(mine.data, b.data...)
		mine.count += b.count
		b.data, b.count = b.data[:0], 0
	}
	if len(mine.data) >= blockBytes {
		blocks = append(blocks, driver.Block{Sub: sub, Count: mine.count, Data: mine.data})
		*mine = buffer{}
	}
	return blocks
}

// grow makes room for n bytes more in b, and reports whether it did: a buffer
// that would outgrow a block isn't grown, nor is one that is worth a block by
// itself while memory is short.
func grow(budget *membudget.Budget, b *buffer, n int) bool {
	need := len(b.data) + n
	if len(b.data) > 0 && need > blockBytes {
		return false
	}
	want := max(need, min(4*cap(b.data), blockBytes))
	data := budget.TryChunk(want)
	if data == nil {
		if len(b.data) >= leastBlockBytes {
			return false
		}
		data = budget.Chunk(need)
	}
	data = append(data, b.data...)
	budget.Free(b.data)
	b.data = data
	return true
}

// end takes a Txn back and notes how it went.
func (w *Writer) end(t *Txn, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	if err != nil && w.failed == nil {
		w.failed = err
	}
	for sub, n := range t.bySub {
		if err == nil && !t.aborted {
			w.sizes.BySub[sub] += n
			w.sizes.Bytes += n
		}
		t.bySub[sub] = 0
	}
	if err == nil && !t.aborted {
		w.sizes.Count += t.count
	}
	t.count, t.aborted = 0, false
	if !w.ended {
		w.free = append(w.free, t)
	}
	return err
}
