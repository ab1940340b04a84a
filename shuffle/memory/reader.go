package memory

import (
	"context"
	"io"
)

// A reader takes blocks from the queues of its seats, as they come. Its
// driver's lock guards all but what Next alone uses.
type reader struct {
	d      *Driver
	pipes  []*pipe
	ready  []*queue // that have blocks, first come first served
	ended  int      // of pipes: nothing follows what is queued
	err    error
	closed bool
	wake   chan struct{} // of capacity 1: look again

	current []byte // what the last Next gave
}

// notify makes Next look again. (The lock is held or not.)
func (r *reader) notify() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.notify()
}

// Next waits for the next block.
func (r *reader) Next(ctx context.Context) ([]byte, int, error) {
	r.d.cfg.Budget.Free(r.current)
	r.current = nil
	for {
		b, ok, err := r.take()
		if err != nil {
			return nil, 0, err
		}
		if ok {
			r.current = b.data
			return b.data, b.count, nil
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// take gives a block if there is one.
func (r *reader) take() (b block, ok bool, err error) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	for r.err == nil && len(r.ready) > 0 {
		q := r.ready[0]
		r.ready = r.ready[1:]
		q.ready = false
		if len(q.blocks) == 0 {
			continue
		}
		b = q.blocks[0]
		q.blocks[0] = block{}
		q.blocks = q.blocks[1:]
		q.bytes -= int64(len(b.data))
		q.announce() // behind the others, if there is more
		q.p.makeRoom()
		return b, true, nil
	}
	if r.err == nil && r.ended == len(r.pipes) {
		return b, false, io.EOF
	}
	return b, false, r.err
}

// Close leaves. A writer that has not ended yet fails.
func (r *reader) Close() {
	r.d.cfg.Budget.Free(r.current)
	r.current = nil
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	r.leave()
}

// leave gives the seats up. (The lock is held.)
func (r *reader) leave() {
	if r.closed {
		return
	}
	r.closed = true
	for _, p := range r.pipes {
		p.leave(r)
	}
}

// leave takes a reader from the pipe. (The lock is held.)
func (p *pipe) leave(r *reader) {
	for i, s := range p.seats {
		if s.r != r {
			continue
		}
		p.seats = append(p.seats[:i], p.seats[i+1:]...)
		switch {
		case !p.created && len(p.seats) == 0:
			delete(p.d.pipes, p.id) // nobody has come but this reader
		case !p.ended:
			p.fail(errLeft)
		default:
			p.left = append(p.left, seat{lo: s.lo, hi: s.hi})
			for j := s.lo; j < min(s.hi, len(p.queues)); j++ {
				p.queues[j].drop(p.d)
			}
		}
		return
	}
}
