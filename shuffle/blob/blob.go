// Package blob keeps blocking partitions in an object store, so that they
// outlive the TaskManager that wrote them.
//
// A partition is collected in memory, or in a local file without a name when
// the budget is short, compressed where that helps and with a checksum for each
// block. Close uploads it as one object, whose key holds the attempt. An object
// is there whole or not at all; one that is already there is never replaced, as
// far as the store can promise that, so that attempts share nothing. What has
// no valid head, or isn't as long as its head says, is no partition.
//
// Blocks are laid out by sub-partition. A reader asks for the head once and
// then for its own range of bytes; several partitions are under way at once,
// and requests that fail on the way are tried again from where they were.
//
// What it promises: a read gives what was committed, or an error. That is a
// *PartitionError if the object is missing or damaged, and its producer must
// run again; it is another error if the store can't be reached, for then
// nothing is known about the partition.
//
// Anyone who shares the store may read a partition by its id, and release it.
// Deleting is done behind the callers' backs; Close waits for it. What nobody
// released, because all who knew of it have died, goes with Sweep.
//
// A store may serve several groups of processes: what each keeps stands under
// its own name, and no group sees another's.
package blob

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"trestle/internal/bucket"
	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// A Config says where what is kept. Budget and Dir are needed.
type Config struct {
	// Owner names the group of processes that share what is kept; "" while that
	// isn't known, when nothing can be created. Once known it stays. Nil is for
	// those who have the store to themselves.
	Owner func() string
	// Budget counts what is kept in memory. It is the one that the blocks'
	// chunks come from.
	Budget *membudget.Budget
	// Dir is where partitions that are being written spill to.
	Dir string
	// Retain is how many bytes growing partitions may keep in memory; 0 means
	// half of the budget.
	Retain int64
	// Parallel is how many partitions a reader reads at once; 0 means 4.
	Parallel int
}

// A Driver keeps partitions in one bucket. It is safe for concurrent use.
type Driver struct {
	bucket *bucket.Bucket
	cfg    Config
	// life ends when the driver is closed: nothing is uploaded then.
	life context.Context
	end  context.CancelFunc

	retained *membudget.Share // blocks kept in memory

	deletions deletions

	mu    sync.Mutex
	parts map[driver.PartitionID]*known
}

var _ driver.Driver = (*Driver)(nil)

// Known is what this process knows of a partition: those that it created, those
// it reads, and those that it released, until their job is released.
type known struct {
	partition *partition // nil if another process writes it
	readers   int        // open ones
	released  bool       // delete it once readers is 0
}

// New returns a driver on a bucket. Close it before the bucket.
func New(b *bucket.Bucket, cfg Config) *Driver {
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	if cfg.Owner == nil {
		cfg.Owner = func() string { return nobody }
	}
	d := &Driver{bucket: b, cfg: cfg, retained: cfg.Budget.Share(cfg.Retain), parts: make(map[driver.PartitionID]*known)}
	d.life, d.end = context.WithCancel(context.Background())
	d.deletions.bucket = b
	return d
}

// Close waits until what was released is deleted, or ctx ends, and ends the
// uploads that are under way. Readers must be closed before.
func (d *Driver) Close(ctx context.Context) error {
	d.end()
	return d.deletions.close(ctx)
}

// Create starts a partition.
func (d *Driver) Create(id driver.PartitionID, subpartitions int) (driver.Partition, error) {
	if len(id.Job)+len(id.Dataset) > mostNames {
		return nil, fmt.Errorf("the names of its job and dataset have more than %d bytes", mostNames)
	}
	if d.cfg.Owner() == "" {
		return nil, errors.New("it isn't known yet whose the store is: no JobManager was met")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts[id] != nil {
		return nil, errors.New("it was created before")
	}
	p := newPartition(d, id, subpartitions)
	d.parts[id] = &known{partition: p}
	return p, nil
}

// Open reads sub-partitions [lo, hi) of closed partitions. Whether those of
// other processes are there is found out by Next.
func (d *Driver) Open(ids []driver.PartitionID, lo, hi int) (driver.Reader, error) {
	if lo < 0 || lo > hi {
		return nil, fmt.Errorf("there is no range [%d, %d) of sub-partitions", lo, hi)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var lost []*driver.PartitionError
	for _, id := range ids {
		if err := d.readable(id); err != nil {
			lost = append(lost, &driver.PartitionError{Partition: id, Err: err})
		}
	}
	if len(lost) > 0 {
		return nil, driver.Lost(lost)
	}
	for _, id := range ids {
		k := d.parts[id]
		if k == nil {
			k = &known{}
			d.parts[id] = k
		}
		k.readers++
	}
	return newReader(d, ids, lo, hi), nil
}

// readable tells why a partition surely can't be read. (d.mu is held.)
func (d *Driver) readable(id driver.PartitionID) error {
	k := d.parts[id]
	switch {
	case k == nil:
		return nil // as far as we know
	case k.released:
		return errGone
	case k.partition != nil:
		return k.partition.readable()
	}
	return nil
}

// letGo is for readers that are closed.
func (d *Driver) letGo(ids []driver.PartitionID) {
	var keys []string
	d.mu.Lock()
	for _, id := range ids {
		k := d.parts[id]
		if k == nil {
			continue // its job was released
		}
		k.readers--
		switch {
		case k.readers > 0:
		case k.released:
			keys = append(keys, d.key(id))
		case k.partition == nil:
			delete(d.parts, id)
		}
	}
	d.mu.Unlock()
	d.deletions.add(keys...)
}

// Release forgets partitions and has their objects deleted, once nobody in this
// process reads them any more.
func (d *Driver) Release(ids ...driver.PartitionID) {
	var keys []string
	var writing []*partition
	d.mu.Lock()
	for _, id := range ids {
		k := d.parts[id]
		if k == nil {
			// Another's. It stays known as released, so that nobody here reads it.
			k = &known{}
			d.parts[id] = k
		}
		if k.released {
			continue
		}
		k.released = true
		if k.partition != nil {
			writing = append(writing, k.partition)
		}
		if k.readers == 0 {
			keys = append(keys, d.key(id))
		}
	}
	d.mu.Unlock()
	for _, p := range writing {
		p.drop()
	}
	d.deletions.add(keys...)
}

// ReleaseJob forgets a job's partitions and has all its objects deleted, also
// those of other processes and of failed writers.
func (d *Driver) ReleaseJob(job string) {
	var writing []*partition
	d.mu.Lock()
	for id, k := range d.parts {
		if id.Job != job {
			continue
		}
		if k.partition != nil {
			writing = append(writing, k.partition)
		}
		delete(d.parts, id)
	}
	d.mu.Unlock()
	for _, p := range writing {
		p.drop()
	}
	d.deletions.add(d.jobPrefix(job))
}

// Recover lists nothing: objects belong to no process. Whoever knows a
// partition's id can open it.
func (d *Driver) Recover() []driver.PartitionID { return nil }
