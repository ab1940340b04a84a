package task

import (
	"context"
	"errors"
	"io"
	"math"

	"trestle/coders"
)

// wantsMore reports whether more should be read before anything is given out, so
// that shares are of what there is, and not of what one block has. Who makes it
// may still be at work, and isn't waited for. The lock is held.
func (q *queue) wantsMore() bool {
	if q.reading || !q.opened || q.reader.pipelined || q.drained && len(q.back) == 0 || len(q.items) >= maxPull {
		return false
	}
	bytes := 0
	for i := range q.items {
		bytes += len(q.items[i].element)
	}
	return bytes < maxPullBytes
}

// read fetches a block, of what has come back if there is some. It gives up the
// lock meanwhile.
func (q *queue) read(ctx context.Context) error {
	q.reading = true
	again, file := q.back, q.ledger.file
	q.mu.Unlock()
	var elems [][]byte
	var err error
	if len(again) > 0 {
		elems, err = again[0].read(file)
	} else {
		elems, err = q.readBlock(ctx)
	}
	q.mu.Lock()
	q.reading = false
	q.wake()
	if q.closed {
		q.closeReader()
		return q.failed
	}
	if len(again) == 0 && errors.Is(err, io.EOF) {
		q.drained = true
		return nil
	}
	if len(again) > 0 {
		q.back = q.back[1:] // others append at most
	}
	if err != nil && (ctx.Err() == nil || len(again) > 0) {
		// What it would have given is lost to the others, too.
		q.failed = err
	}
	for _, e := range elems {
		q.items = append(q.items, item{element: e, owner: anyone})
	}
	q.ledger.count(sizeOf(elems...))
	return err
}

func (q *queue) readBlock(ctx context.Context) ([][]byte, error) {
	if !q.opened {
		r, err := q.open(context.WithoutCancel(ctx)) // outlives the task that opens it
		if err != nil {
			return nil, err
		}
		q.reader, q.opened = r, true
	}
	block, _, err := q.reader.fill(ctx, nil, math.MaxInt)
	if err != nil {
		return nil, err
	}
	return cutAll(q.reader.w, block)
}

// cutAll cuts a block into its elements of one window each.
func cutAll(w *coders.Windowed, block []byte) (elems [][]byte, err error) {
	var v coders.Value
	for len(block) > 0 {
		if block, err = w.Next(block, &v); err != nil {
			return nil, err
		}
		if elems, err = apart(elems, w, &v); err != nil {
			return nil, err
		}
	}
	return elems, nil
}
