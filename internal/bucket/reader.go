package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"gocloud.dev/blob"
)

// restful is how many bytes must have come before earlier failures are
// forgotten: a store that breaks off after every few bytes is not reached.
const restful = 256 << 10

// A Reader reads a range of an object. A connection that breaks off or hangs is
// opened again from where it was. One goroutine uses it.
type Reader struct {
	b   *Bucket
	ctx context.Context
	key string

	off, end int64 // what is left; end is -1 until it is known
	size     int64 // of the object
	tries    int   // since good
	good     int64 // bytes since the last failure

	conn   *blob.Reader // nil while there is none
	cancel context.CancelCauseFunc
	watch  *time.Timer
	connX  context.Context
}

// Read opens n bytes of an object from off, or all that follows if n < 0. Where
// the object ends before, so does the Reader. Ctx holds until Close.
func (b *Bucket) Read(ctx context.Context, key string, off, n int64) (*Reader, error) {
	r := &Reader{b: b, ctx: ctx, key: key, off: off, end: -1}
	if n >= 0 {
		r.end = off + n
	}
	for {
		err := r.connect()
		if err == nil {
			return r, nil
		}
		if err := r.failed(err); err != nil {
			return nil, err
		}
	}
}

// Size is the whole object's.
func (r *Reader) Size() int64 { return r.size }

// connect opens the range that is left.
func (r *Reader) connect() error {
	ctx, cancel := context.WithCancelCause(r.ctx)
	watch := time.AfterFunc(r.b.opts.Idle, func() { cancel(errIdle) })
	length := int64(-1)
	if r.end >= 0 {
		length = r.end - r.off
	}
	conn, err := r.b.blobs.NewRangeReader(ctx, r.key, r.off, length, nil)
	watch.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errIdle) {
			err = errIdle
		}
		cancel(nil)
		return err
	}
	if r.size != 0 && conn.Size() != r.size {
		err := fmt.Errorf("object store: read %s: its size was %d and is %d", r.key, r.size, conn.Size())
		cancel(nil)
		_ = conn.Close() // nothing was written
		return err
	}
	r.size = conn.Size()
	if r.end < 0 || r.end > r.size {
		r.end = max(r.size, r.off)
	}
	r.conn, r.cancel, r.watch, r.connX = conn, cancel, watch, ctx
	return nil
}

// Read reads on, over as many connections as it takes.
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if r.off >= r.end {
			return 0, io.EOF
		}
		if r.conn == nil {
			if err := r.connect(); err != nil {
				if err := r.failed(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		r.watch.Reset(r.b.opts.Idle)
		n, err := r.conn.Read(p[:min(int64(len(p)), r.end-r.off)])
		r.watch.Stop()
		r.off += int64(n)
		if r.good += int64(n); r.good >= restful {
			r.tries = 0
		}
		if err == nil || r.off >= r.end {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if errors.Is(context.Cause(r.connX), errIdle) {
			err = errIdle
		}
		r.disconnect()
		if err := r.failed(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// failed waits before the next try, or gives the error that there is none for.
func (r *Reader) failed(err error) error {
	r.tries++
	r.good = 0
	if err := r.b.judge(r.ctx, "read "+r.key, r.tries, err); err != nil {
		return err
	}
	return r.b.pause(r.ctx, r.tries)
}

func (r *Reader) disconnect() {
	if r.conn != nil {
		r.watch.Stop()
		r.cancel(nil)
		_ = r.conn.Close() // nothing was written
		r.conn = nil
	}
}

// Close ends the reading.
func (r *Reader) Close() { r.disconnect() }

// chance is a number from 0 to 1.
func chance() float64 { return rand.Float64() }
