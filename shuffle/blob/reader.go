package blob

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"trestle/internal/bucket"
	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"

	"github.com/cespare/xxhash/v2"
)

const (
	// firstBytes are asked for at once: the head, and all of a small partition.
	firstBytes = 32 << 10
	// ahead is how many blocks a reader has fetched that were not asked for yet,
	// beside one in each of its fetchers.
	ahead = 4
	// readBuffer saves small frames a system call each.
	readBuffer = 32 << 10
)

// A reader reads several partitions at once. Its goroutines live from the first
// call of Next until Close; if nobody calls Next there are none.
type reader struct {
	d      *Driver
	ids    []driver.PartitionID
	lo, hi int
	closed bool

	fetched chan fetched // of capacity ahead; closed at the end
	ctx     context.Context
	stop    context.CancelFunc
	current []byte // the last block given
	failed  error  // what Next has said
}

// A fetched block, or what went wrong.
type fetched struct {
	data  []byte // a chunk
	count int
	err   error
}

func newReader(d *Driver, ids []driver.PartitionID, lo, hi int) *reader {
	return &reader{d: d, ids: ids, lo: lo, hi: hi}
}

// Next gives the next block.
func (r *reader) Next(ctx context.Context) ([]byte, int, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if r.failed != nil {
		return nil, 0, r.failed
	}
	if r.fetched == nil {
		r.start()
	}
	r.d.cfg.Budget.Free(r.current)
	r.current = nil
	select {
	case f, ok := <-r.fetched:
		if !ok {
			f.err = io.EOF
		}
		r.current, r.failed = f.data, f.err
		return f.data, f.count, f.err
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
}

// start starts the fetchers, each of which takes one partition after another.
func (r *reader) start() {
	r.fetched = make(chan fetched, ahead)
	r.ctx, r.stop = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(r.d.cfg.Parallel, len(r.ids)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(r.ids) || r.ctx.Err() != nil {
					return
				}
				if err := r.fetch(r.ids[i]); err != nil {
					r.give(fetched{err: err})
					return
				}
			}
		})
	}
	go func() { // Close waits for the channel's end
		wg.Wait()
		close(r.fetched)
	}()
}

// Close ends the fetching and lets the partitions go.
func (r *reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	if r.fetched != nil {
		r.stop()
		for f := range r.fetched {
			r.d.cfg.Budget.Free(f.data)
		}
	}
	r.d.cfg.Budget.Free(r.current)
	r.d.letGo(r.ids)
}

// give hands f to Next. It reports whether the reader is still open.
func (r *reader) give(f fetched) bool {
	if r.ctx.Err() == nil {
		select {
		case r.fetched <- f:
			return true
		case <-r.ctx.Done():
		}
	}
	r.d.cfg.Budget.Free(f.data)
	return false
}

// fetch gives all blocks of one partition, until it fails or the reader is
// closed.
func (r *reader) fetch(id driver.PartitionID) error {
	err := r.fetchRange(id)
	var damaged *damagedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &damaged), errors.Is(err, bucket.ErrNotFound):
		return &driver.PartitionError{Partition: id, Err: err}
	}
	return fmt.Errorf("read shuffle partition %v: %w", id, err)
}

// A damagedError is about what an object holds, and not about reaching it.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

func (r *reader) fetchRange(id driver.PartitionID) error {
	budget := r.d.cfg.Budget
	start := budget.Chunk(firstBytes)[:firstBytes]
	defer budget.Free(start)
	h, first, headSize, err := r.d.readHead(r.ctx, id, start)
	if err != nil {
		return err
	}
	if r.hi > h.subs {
		return &damagedError{fmt.Errorf("it has %d sub-partitions, not [%d, %d)", h.subs, r.lo, r.hi)}
	}
	from, to := h.span(r.lo, r.hi)
	if from >= to || r.lo == r.hi {
		return nil
	}
	in := &frames{budget: budget, seed: seedOf(id, h.nonce), off: from, end: to}
	// What came with the head needn't be asked for again.
	at, end := headSize+from, headSize+to
	here := first[min(at, int64(len(first))):min(end, int64(len(first)))]
	in.from = bytes.NewReader(here)
	if at += int64(len(here)); at < end {
		rest, err := r.d.bucket.Read(r.ctx, r.d.key(id), at, end-at)
		if err != nil {
			return err
		}
		defer rest.Close()
		in.from = io.MultiReader(in.from, bufio.NewReaderSize(rest, readBuffer))
	}
	for in.off < in.end {
		data, f, err := in.next(r.lo, r.hi)
		if err != nil {
			return err
		}
		if data != nil && !r.give(fetched{data: data, count: f.count}) {
			return nil
		}
	}
	return nil
}

// readHead reads the start of a partition's object into buf, and gives the head
// and all that came.
func (d *Driver) readHead(ctx context.Context, id driver.PartitionID, buf []byte) (h *head, first []byte, size int64, err error) {
	in, err := d.bucket.Read(ctx, d.key(id), 0, int64(len(buf)))
	if err != nil {
		return nil, nil, 0, err
	}
	defer in.Close()
	n, err := io.ReadFull(in, buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, nil, 0, err
	}
	first = buf[:n]
	length, err := headLen(first)
	if err != nil || length > n {
		return nil, nil, 0, &damagedError{errDamaged}
	}
	if h, err = parseHead(first[:length]); err != nil {
		return nil, nil, 0, &damagedError{err}
	}
	if h.id != id {
		return nil, nil, 0, &damagedError{fmt.Errorf("its object holds partition %v", h.id)}
	}
	if want := int64(length) + h.size; in.Size() != want {
		return nil, nil, 0, &damagedError{fmt.Errorf("its object has %d bytes, not %d", in.Size(), want)}
	}
	return h, first, int64(length), nil
}

// unexpected tells the end of an object, which is damage, from a failure to
// read it.
func unexpected(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &damagedError{io.ErrUnexpectedEOF}
	}
	return err
}

// frames reads frames one after another.
type frames struct {
	budget   *membudget.Budget
	seed     uint64
	from     io.Reader
	off, end int64 // behind the head: of the next frame, and of the last one's end
}

// next reads one frame, and gives its block as a chunk, or nil if it is of none
// of the sub-partitions [lo, hi).
func (in *frames) next(lo, hi int) ([]byte, frame, error) {
	var raw [frameLen]byte
	if in.end-in.off < frameLen {
		return nil, frame{}, &damagedError{fmt.Errorf("block at %d: no room for it", in.off)}
	}
	if _, err := io.ReadFull(in.from, raw[:]); err != nil {
		return nil, frame{}, unexpected(err)
	}
	f := parseFrame(&raw)
	at := in.off
	if int64(f.stored) > in.end-at-frameLen {
		return nil, f, &damagedError{fmt.Errorf("block at %d: wrong length", at)}
	}
	payload := in.budget.Chunk(f.stored)[:f.stored]
	if _, err := io.ReadFull(in.from, payload); err != nil {
		in.budget.Free(payload)
		return nil, f, unexpected(err)
	}
	in.off += frameLen + int64(f.stored)
	// Also of blocks that are skipped: their lengths have led us here.
	if f.checksum(xxhash.Sum64(payload), in.seed, at) != f.sum {
		in.budget.Free(payload)
		return nil, f, &damagedError{fmt.Errorf("block at %d: wrong checksum", at)}
	}
	if f.sub < lo || f.sub >= hi {
		in.budget.Free(payload)
		return nil, f, nil
	}
	if !f.packed {
		return payload, f, nil
	}
	defer in.budget.Free(payload)
	data := in.budget.Chunk(f.raw)[:f.raw]
	if err := pack.Unpack(data, payload); err != nil {
		in.budget.Free(data)
		return nil, f, &damagedError{fmt.Errorf("block at %d: %w", at, err)}
	}
	return data, f, nil
}
