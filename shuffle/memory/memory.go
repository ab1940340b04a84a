// Package memory keeps pipelined partitions: the reader takes what the writer
// commits while the writer goes on.
//
// Each sub-partition is a queue of blocks with one reader and a bound in
// bytes. A writer that finds a queue full waits, with all that it still has to
// publish, until the reader has made room; that is the back-pressure between
// the stages of a region. A block larger than the bound passes when its queue
// is empty. What a bundle stages before its commit, and is too much for
// memory, waits in an unlinked file.
//
// Reader and writer start in any order: a partition may be opened before it is
// created. A writer that gives up ends its readers with its reason, and a
// reader that leaves before the end ends its writer. Nothing here outlives its
// process or can be read twice.
package memory

import (
	"errors"
	"fmt"
	"sync"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// A Config says how much waits where. Budget and Dir must be set.
type Config struct {
	// Budget counts what is queued. It is the one that the blocks' chunks come
	// from.
	Budget *membudget.Budget
	// Dir is for files of staged blocks, which have no name once they are open.
	Dir string
	// Window is the bound of one partition's queues together; 0 means 4 MiB.
	// Each queue gets its part, but at least a quarter of a block.
	Window int64
}

const (
	defaultWindow = 4 << 20
	leastWindow   = 32 << 10 // of one queue
	mostWindow    = 1 << 20  // of one queue
	// joinBelow is the size up to which small commits to one sub-partition
	// share a block while the reader is behind.
	joinBelow = 64 << 10
)

// A Driver keeps the pipelined partitions of a process. It is safe for
// concurrent use.
type Driver struct {
	cfg Config

	// One lock for all: it is taken per batch of blocks, and held to move
	// slices about. Nothing waits and no file is read under it.
	mu    sync.Mutex
	pipes map[driver.PartitionID]*pipe // also released ones, until their job is
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver without partitions.
func New(cfg Config) *Driver {
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	return &Driver{cfg: cfg, pipes: make(map[driver.PartitionID]*pipe)}
}

var (
	errReleased = errors.New("it was released")
	errLeft     = errors.New("its reader left before the end")
)

// Create starts a partition.
func (d *Driver) Create(id driver.PartitionID, subpartitions int) (driver.Partition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pipe(id)
	if p.created {
		return nil, errors.New("it was created before")
	}
	if p.err != nil {
		return nil, p.err
	}
	p.created = true
	p.queues = make([]queue, subpartitions)
	p.window = min(max(d.cfg.Window/int64(subpartitions), leastWindow), mostWindow)
	for _, s := range p.seats {
		p.attach(s)
	}
	return p, nil
}

// pipe finds or makes the pipe of a partition. (d.mu is held.)
func (d *Driver) pipe(id driver.PartitionID) *pipe {
	p := d.pipes[id]
	if p == nil {
		p = &pipe{d: d, id: id}
		d.pipes[id] = p
	}
	return p
}

// Open reads sub-partitions [lo, hi) of partitions that may not be there yet.
func (d *Driver) Open(ids []driver.PartitionID, lo, hi int) (driver.Reader, error) {
	if lo < 0 || lo > hi {
		return nil, fmt.Errorf("no such sub-partitions: [%d, %d)", lo, hi)
	}
	r := &reader{d: d, wake: make(chan struct{}, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		p := d.pipe(id)
		s := seat{r: r, lo: lo, hi: hi}
		err := p.err
		for _, other := range p.seats {
			if err == nil && lo < other.hi && other.lo < hi {
				err = fmt.Errorf("sub-partitions [%d, %d) have a reader already", other.lo, other.hi)
			}
		}
		for _, gone := range p.left {
			if err == nil && lo < gone.hi && gone.lo < hi {
				err = fmt.Errorf("sub-partitions [%d, %d) had a reader that has left", gone.lo, gone.hi)
			}
		}
		if err != nil {
			r.leave()
			return nil, &driver.PartitionError{Partition: id, Err: err}
		}
		p.seats = append(p.seats, s)
		r.pipes = append(r.pipes, p)
		if p.created {
			p.attach(s)
		}
		if p.ended {
			r.ended++
		}
	}
	return r, nil
}

// Release forgets partitions. A reader of one that is closed may come to its
// end; who waits for or writes an unfinished one gets an error.
func (d *Driver) Release(ids ...driver.PartitionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if p := d.pipes[id]; p != nil {
			p.release()
		}
	}
}

// ReleaseJob releases all of a job.
func (d *Driver) ReleaseJob(job string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, p := range d.pipes {
		if id.Job == job {
			p.release()
			delete(d.pipes, id)
		}
	}
}

// Recover finds nothing: memory ends with its process.
func (d *Driver) Recover() []driver.PartitionID { return nil }
