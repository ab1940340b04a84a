package task

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
)

// An input gives a task what its bundles are fed, until io.EOF. What next gave
// is the bundle's until release.
type input interface {
	next(ctx context.Context) (*bundle.Input, error)
	// more tells whether the key that the last bundle ended with goes on in the
	// next one.
	more() bool
	release()
	close()
}

// A source appends encoded elements: what is behind most inputs.
type source interface {
	// fill appends whole elements to dst, up to about its capacity and about most,
	// and tells how many. It returns io.EOF, with nothing appended, at the end.
	fill(ctx context.Context, dst []byte, most int) (out []byte, count int, err error)
	// more tells whether the last key goes on.
	more() bool
	// mark is a position in what the source keeps for the worker beside the
	// bytes (tails of large groups); free drops what lies between two.
	mark() uint64
	free(from, to uint64)
	close()
}

// chunkSize is what is sent to a worker at a time.
const chunkSize = 256 << 10

// batches cuts a source into bundles of bounded bytes and count. It reads
// ahead: the next bundle's input is collected while the last one is at work.
type batches struct {
	src    source
	budget *membudget.Budget
	limit  limits

	chunks chan chunk  // capacity 1: as far as the source is read ahead of the batch
	ahead  chan batch  // no capacity: the batch being built is the only one ahead
	free   chan []byte // buffers to use again
	cancel context.CancelFunc
	done   sync.WaitGroup

	current batch // between next and release
}

// limits bound one bundle's input.
type limits struct {
	bytes int64
	count int
	// linger is how long to wait for more when there is something; 0 means
	// until a limit is met. A pipelined input must not hold back what is there.
	linger time.Duration
}

type chunk struct {
	bytes    []byte
	count    int
	more     bool
	from, to uint64 // marks around it
	err      error
}

type batch struct {
	in       *bundle.Input
	more     bool
	from, to uint64
	err      error
}

// newBatches starts reading. close ends it.
func newBatches(ctx context.Context, src source, budget *membudget.Budget, l limits) *batches {
	ctx, cancel := context.WithCancel(ctx)
	b := &batches{
		src: src, budget: budget, limit: l,
		chunks: make(chan chunk, 1),
		ahead:  make(chan batch),
		free:   make(chan []byte, 64),
		cancel: cancel,
	}
	b.done.Go(func() { b.read(ctx) })
	b.done.Go(func() { b.build(ctx) })
	return b
}

// read fetches chunks until the source ends. It counts as collect does, so that
// a chunk ends where a bundle must. (A bundle that lingering ended early throws
// it out of step: the next one is then up to twice as large.)
func (b *batches) read(ctx context.Context) {
	defer close(b.chunks)
	var count int
	var bytes int64
	for {
		buf := b.buffer()
		c := chunk{from: b.src.mark()}
		c.bytes, c.count, c.err = b.src.fill(ctx, buf, max(1, b.limit.count-count))
		if c.err == nil {
			b.budget.Take(int64(cap(c.bytes)))
			c.more, c.to = b.src.more(), b.src.mark()
		}
		count, bytes = count+c.count, bytes+int64(len(c.bytes))
		if count >= b.limit.count || bytes >= b.limit.bytes {
			count, bytes = 0, 0
		}
		select {
		case b.chunks <- c:
		case <-ctx.Done():
			b.drop(c)
			return
		}
		if c.err != nil {
			return
		}
	}
}

func (b *batches) drop(c chunk) {
	if c.err == nil {
		b.budget.Give(int64(cap(c.bytes)))
	}
}

// build hands out batches until the chunks end.
func (b *batches) build(ctx context.Context) {
	for {
		x := b.collect(ctx)
		err := x.err
		x.err = nil
		if x.in.Elements == 0 || !b.give(ctx, x) {
			b.discard(x) // the end, or nobody wants it
		}
		if err != nil {
			b.give(ctx, batch{err: err})
			return
		}
	}
}

func (b *batches) give(ctx context.Context, x batch) bool {
	select {
	case b.ahead <- x:
		return true
	case <-ctx.Done():
		return false
	}
}

// collect builds one bundle's input. With an error comes what was there before it.
func (b *batches) collect(ctx context.Context) batch {
	in := &bundle.Input{}
	x := batch{in: in}
	var late <-chan time.Time
	for in.Bytes < b.limit.bytes && in.Elements < b.limit.count {
		select {
		case c, ok := <-b.chunks:
			if !ok {
				c.err = context.Cause(ctx)
			}
			if c.err != nil {
				x.err = c.err
				return x
			}
			if len(in.Chunks) == 0 {
				x.from = c.from
			}
			x.to, x.more = c.to, c.more
			in.Chunks = append(in.Chunks, c.bytes)
			in.Elements += c.count
			in.Bytes += int64(len(c.bytes))
			if late == nil && b.limit.linger > 0 {
				late = time.After(b.limit.linger)
			}
		case <-late:
			return x
		case <-ctx.Done():
			x.err = context.Cause(ctx)
			return x
		}
	}
	return x
}

func (b *batches) buffer() []byte {
	select {
	case buf := <-b.free:
		return buf
	default:
		return make([]byte, 0, chunkSize)
	}
}

func (b *batches) recycle(buf []byte) {
	if cap(buf) > 2*chunkSize {
		return // a huge element's; not kept
	}
	select {
	case b.free <- buf[:0]:
	default:
	}
}

func (b *batches) next(ctx context.Context) (*bundle.Input, error) {
	select {
	case b.current = <-b.ahead:
		return b.current.in, b.current.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *batches) more() bool { return b.current.more }

// release ends the use of what next gave last.
func (b *batches) release() {
	if b.current.in != nil {
		b.discard(b.current)
	}
	b.current = batch{}
}

func (b *batches) discard(x batch) {
	for _, c := range x.in.Chunks {
		b.budget.Give(int64(cap(c)))
		b.recycle(c)
	}
	b.src.free(x.from, x.to)
}

func (b *batches) close() {
	b.cancel()
	b.done.Wait()
	b.release()
	for c := range b.chunks {
		b.drop(c)
	}
	b.src.close()
}

// readSource passes on blocks of a shuffle reader.
type readSource struct {
	readers []blockReader // one after another
	block   []byte        // what is left of the last block
	count   int
	w       *coders.Windowed
	// pipelined says that some are still being written.
	pipelined bool
}

func (s *readSource) fill(ctx context.Context, dst []byte, most int) ([]byte, int, error) {
	for len(s.block) == 0 {
		if len(s.readers) == 0 {
			return dst, 0, io.EOF
		}
		block, n, err := s.readers[0].Next(ctx)
		if errors.Is(err, io.EOF) {
			s.readers[0].Close()
			s.readers = s.readers[1:]
			continue
		}
		if err != nil {
			return dst, 0, err
		}
		s.block, s.count = block, n
	}
	if s.count <= most && len(s.block) <= max(cap(dst)-len(dst), 2*chunkSize) {
		out, n := append(dst, s.block...), s.count
		s.block, s.count = nil, 0
		return out, n, nil
	}
	return s.part(dst, most)
}

// part takes the elements of a large block that fit, at least one.
func (s *readSource) part(dst []byte, most int) ([]byte, int, error) {
	rest, n := s.block, 0
	var v coders.Value
	for len(rest) > 0 {
		next, err := s.w.Next(rest, &v)
		if err != nil {
			return dst, 0, err
		}
		if n == most || n > 0 && len(s.block)-len(next) > chunkSize {
			break
		}
		rest = next
		n++
	}
	dst = append(dst, s.block[:len(s.block)-len(rest)]...)
	s.block, s.count = rest, s.count-n
	return dst, n, nil
}

func (*readSource) more() bool       { return false }
func (*readSource) mark() uint64     { return 0 }
func (*readSource) free(_, _ uint64) {}

func (s *readSource) close() {
	for _, r := range s.readers {
		r.Close()
	}
}

// impulse is the input of a stage that starts from nothing, or from what a
// source was bound to: one byte string at the beginning of time, in the global
// window.
type impulse struct {
	value []byte
	given bool
}

func (i *impulse) next(context.Context) (*bundle.Input, error) {
	if i.given {
		return nil, io.EOF
	}
	i.given = true
	chunk := coders.AppendHeader(nil, element.MinTimestamp, 1, nil, coders.NoFiring)
	chunk = binary.AppendUvarint(chunk, uint64(len(i.value)))
	chunk = append(chunk, i.value...)
	return &bundle.Input{Chunks: [][]byte{chunk}, Elements: 1, Bytes: int64(len(chunk))}, nil
}

func (*impulse) more() bool { return false }
func (*impulse) release()   {}
func (*impulse) close()     {}
