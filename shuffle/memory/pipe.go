package memory

import (
	"context"
	"errors"
	"fmt"

	"trestle/shuffle/driver"
)

// A pipe is one partition. Its driver's lock guards all but staging.
type pipe struct {
	d  *Driver
	id driver.PartitionID

	created bool
	ended   bool  // by Close: nothing follows what is queued
	err     error // it was given up or released, or its reader left
	window  int64
	queues  []queue // by sub-partition, once created
	seats   []seat  // readers, disjoint
	left    []seat  // of readers that are gone: what they had is gone, too
	// room is closed when a queue has become shorter or err is set; nil while
	// nobody waits.
	room chan struct{}

	staging staging
}

var _ driver.Partition = (*pipe)(nil)

// A seat is the range of sub-partitions that a reader has.
type seat struct {
	r      *reader
	lo, hi int
}

// A queue is what of one sub-partition is written and not read.
type queue struct {
	p      *pipe
	r      *reader // nil until there is one
	blocks []block
	bytes  int64
	ready  bool // in r.ready; true iff r and blocks are there
}

type block struct {
	data  []byte
	count int
}

// attach gives the queues of a seat their reader.
func (p *pipe) attach(s seat) {
	if s.hi > len(p.queues) {
		s.r.fail(&driver.PartitionError{Partition: p.id,
			Err: fmt.Errorf("it has %d sub-partitions, not [%d, %d)", len(p.queues), s.lo, s.hi)})
		return
	}
	for i := s.lo; i < s.hi; i++ {
		q := &p.queues[i]
		q.p, q.r = p, s.r
		q.announce()
	}
}

// announce tells the reader of a queue that has become ready.
func (q *queue) announce() {
	if q.r == nil || q.ready || len(q.blocks) == 0 {
		return
	}
	q.ready = true
	q.r.ready = append(q.r.ready, q)
	q.r.notify()
}

// push appends a block, to the last one if both are small. What has no elements
// is a mark between them and stays by itself.
func (q *queue) push(b block, d *Driver) {
	q.bytes += int64(len(b.data))
	if n := len(q.blocks); n > 0 {
		last := &q.blocks[n-1]
		if need := len(last.data) + len(b.data); need <= joinBelow && last.count > 0 && b.count > 0 {
			if need > cap(last.data) {
				grown := append(d.cfg.Budget.Chunk(min(max(need, 2*cap(last.data)), joinBelow)), last.data...)
				d.cfg.Budget.Free(last.data)
				last.data = grown
			}
			last.data = append(last.data, b.data...)
			last.count += b.count
			d.cfg.Budget.Free(b.data)
			return
		}
	}
	q.blocks = append(q.blocks, b)
}

// drop frees what is queued.
func (q *queue) drop(d *Driver) {
	for _, b := range q.blocks {
		d.cfg.Budget.Free(b.data)
	}
	q.blocks, q.bytes = nil, 0
}

// Publish queues blocks, as there is room for them.
func (p *pipe) Publish(ctx context.Context, blocks []driver.Block) error {
	for i := range blocks {
		if err := p.publish(ctx, &blocks[i]); err != nil {
			for j := i; j < len(blocks); j++ {
				p.d.cfg.Budget.Free(blocks[j].Data)
			}
			p.Discard(blocks[i:])
			return p.because(err)
		}
	}
	return nil
}

func (p *pipe) publish(ctx context.Context, b *driver.Block) error {
	size := int64(len(b.Data))
	if b.Staged() {
		size = p.staging.size(b.Ref)
	}
	for {
		wait, err := p.tryPublish(b, size)
		if err != nil || wait == nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tryPublish queues b if there is room for its size bytes, or gives what to
// wait for.
func (p *pipe) tryPublish(b *driver.Block, size int64) (wait <-chan struct{}, err error) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	q := &p.queues[b.Sub]
	if q.bytes > 0 && q.bytes+size > p.window {
		if p.room == nil {
			p.room = make(chan struct{})
		}
		return p.room, nil
	}
	data := b.Data
	if b.Staged() {
		// Other writers may push meanwhile: the bound is passed by one block each.
		p.d.mu.Unlock()
		data, err = p.staging.load(p.d.cfg.Budget, b.Ref)
		p.d.mu.Lock()
		if err == nil && p.err != nil {
			p.d.cfg.Budget.Free(data)
			err = p.err
		}
		if err != nil {
			return nil, err
		}
	}
	q.push(block{data: data, count: b.Count}, p.d)
	b.Data = nil
	q.announce()
	return nil, nil
}

// Stage puts a block into the staging file.
func (p *pipe) Stage(b *driver.Block) error {
	ref, err := p.staging.store(p.d.cfg.Dir, b.Data)
	p.d.cfg.Budget.Spilled(int64(len(b.Data)))
	p.d.cfg.Budget.Free(b.Data)
	b.Data, b.Ref = nil, ref
	return p.because(err)
}

// because gives the error that a writer is told. That its reader has left is
// nothing that it did: the reader's error says more.
func (p *pipe) because(err error) error {
	if err == nil {
		return nil
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if errors.Is(p.err, errLeft) {
		return &driver.PartitionError{Partition: p.id, Err: errLeft}
	}
	return err
}

// Discard forgets staged blocks.
func (p *pipe) Discard(blocks []driver.Block) {
	for i := range blocks {
		if blocks[i].Staged() {
			p.staging.discard(blocks[i].Ref)
		}
	}
}

// Close ends the partition: its readers come to its end.
func (p *pipe) Close() (durable string, err error) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if errors.Is(p.err, errLeft) {
		return "", &driver.PartitionError{Partition: p.id, Err: errLeft}
	}
	if p.err != nil {
		return "", p.err
	}
	p.ended = true
	for _, s := range p.seats {
		s.r.ended++
		s.r.notify()
	}
	p.staging.close()
	return "memory", nil
}

// Abort gives the partition up.
func (p *pipe) Abort(cause error) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if !p.ended {
		p.fail(cause)
	}
}

// fail ends the pipe's writer and readers with cause. (The lock is held.)
func (p *pipe) fail(cause error) {
	if p.err != nil {
		return
	}
	p.err = cause
	p.makeRoom()
	for i := range p.queues {
		p.queues[i].drop(p.d)
	}
	for _, s := range p.seats {
		s.r.fail(&driver.PartitionError{Partition: p.id, Err: cause})
	}
	p.seats = nil
	p.staging.close()
}

// release forgets the pipe, but for readers on their way to its end. (The lock
// is held.)
func (p *pipe) release() {
	if !p.ended {
		p.fail(errReleased)
		return
	}
	p.err = errReleased
	for i := range p.queues {
		if p.queues[i].r == nil {
			p.queues[i].drop(p.d)
		}
	}
}

// makeRoom wakes who waits for room.
func (p *pipe) makeRoom() {
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
}
