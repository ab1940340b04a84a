package task

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// A blockReader gives blocks of whole elements; see shuffle.Reader.
type blockReader interface {
	Next(ctx context.Context) (elems []byte, count int, err error)
	Close()
}

// A fanIn reads several inputs at once and gives their blocks as they come.
//
// Pipelined inputs must not be read one after another: two of them may come
// from one producer by different ways, and it waits for room on the one while
// the end of the other waits for it. Blocking ones may; several are read at once
// where they are at different TaskManagers, whose network and disks can work
// side by side.
type fanIn struct {
	readers []blockReader
	most    int       // that are read at once; 0: all
	blocks  chan lent // no capacity: each reader is one block ahead at most
	cancel  context.CancelFunc
	done    sync.WaitGroup
	begun   atomic.Int64    // readers that were begun
	open    int             // readers that have not come to their end
	last    chan<- struct{} // tells the reader of the last block that it may go on; nil: none waits
}

// lent is a block that stays until back is told.
type lent struct {
	elems []byte
	count int
	err   error
	back  chan<- struct{}
}

// Next gives the next block of any input, or io.EOF after all have ended.
func (f *fanIn) Next(ctx context.Context) (elems []byte, count int, err error) {
	if f.cancel == nil {
		f.start()
	}
	if f.last != nil {
		f.last <- struct{}{} // has capacity 1 and is empty
		f.last = nil
	}
	for f.open > 0 {
		select {
		case b := <-f.blocks:
			if errors.Is(b.err, io.EOF) {
				f.open--
				continue
			}
			f.last = b.back
			return b.elems, b.count, b.err
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
	return nil, 0, io.EOF
}

// start begins to read. Close ends it.
func (f *fanIn) start() {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(context.Background())
	f.blocks = make(chan lent)
	f.open = len(f.readers)
	n := f.open
	if f.most > 0 {
		n = min(n, f.most)
	}
	for range n {
		f.done.Go(func() { f.readAll(ctx) })
	}
}

// readAll reads one input after another that nobody else has begun.
func (f *fanIn) readAll(ctx context.Context) {
	for {
		i := int(f.begun.Add(1)) - 1
		if i >= len(f.readers) || !f.read(ctx, f.readers[i]) {
			return
		}
	}
}

// read hands on one input's blocks until its end. It reports whether it came to
// that.
func (f *fanIn) read(ctx context.Context, r blockReader) bool {
	back := make(chan struct{}, 1)
	for {
		elems, count, err := r.Next(ctx)
		select {
		case f.blocks <- lent{elems, count, err, back}:
		case <-ctx.Done():
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		select {
		case <-back:
		case <-ctx.Done():
			return false
		}
	}
}

// Close ends the reading.
func (f *fanIn) Close() {
	if f.cancel != nil {
		f.cancel()
		f.done.Wait()
	}
	for _, r := range f.readers {
		r.Close()
	}
}
