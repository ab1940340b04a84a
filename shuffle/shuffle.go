// Package shuffle hands datasets from the tasks that write them to the tasks
// that read them.
//
// A producer task writes one partition of a dataset; a partition has
// sub-partitions, and a consumer task reads a range of sub-partitions from
// every partition that it is told of. Elements are opaque bytes here: a block
// is some whole elements one after another, encoded as on a worker's data
// stream, with their count.
//
// What a partition holds is decided by commits, never by what reached a disk:
// a bundle's output becomes part of it with Txn.Commit, and the partition can
// be read when its Writer is closed (blocking) or as it grows (pipelined).
// Attempts never share anything: a writer that was believed dead can't add to
// what its successor wrote.
//
// Where the bytes are kept is a driver's matter (packages memory, localdisk).
// What is staged, buffered or kept in memory is counted by the process's
// budget, and goes to a disk when the budget says no.
package shuffle

import (
	"context"
	"fmt"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// Exchanges say when a partition may be read.
const (
	Blocking  = "blocking"  // after Writer.Close
	Pipelined = "pipelined" // as it grows, by one reader per sub-partition
)

// Stored is for blocking partitions in a store that outlives TaskManagers and
// that all of them reach. Where there is a driver for it, new Blocking
// partitions go there; those that are elsewhere are opened as Blocking still.
const Stored = "stored"

// A PartitionID names what one attempt of one producer task writes of one
// dataset.
type PartitionID = driver.PartitionID

// A PartitionError names a partition that is missing or corrupt. Its producer
// must run again.
type PartitionError = driver.PartitionError

// Lost makes one error of partitions that are missing or corrupt.
func Lost(all []*PartitionError) error { return driver.Lost(all) }

// LostIn lists the partitions that err says are missing or corrupt.
func LostIn(err error) []*PartitionError { return driver.LostIn(err) }

// Sizes tell what a partition holds.
type Sizes struct {
	Bytes   int64 // of the elements, before compression
	Count   int64
	BySub   []int64 // bytes of each sub-partition
	Durable string  // "memory", "disk" or "blob": what is lost with what
}

// A Service is a TaskManager's writer and reader side of shuffle. It is safe
// for concurrent use.
type Service struct {
	budget  *membudget.Budget
	drivers map[string]driver.Driver // by exchange; never changes
}

// New returns a service that keeps the partitions of each exchange with its
// driver. The drivers must share budget.
func New(budget *membudget.Budget, drivers map[string]driver.Driver) *Service {
	return &Service{budget: budget, drivers: drivers}
}

// Create starts a partition. It fails if that id was created before.
func (s *Service) Create(_ context.Context, id PartitionID, subpartitions int, exchange string) (*Writer, error) {
	if exchange == Blocking && s.Stores() {
		exchange = Stored
	}
	d, err := s.driver(exchange)
	if err != nil {
		return nil, err
	}
	if subpartitions < 1 {
		return nil, fmt.Errorf("create partition %v: it needs at least one sub-partition, not %d", id, subpartitions)
	}
	part, err := d.Create(id, subpartitions)
	if err != nil {
		return nil, fmt.Errorf("create partition %v: %w", id, err)
	}
	return newWriter(s.budget, id, part, subpartitions, exchange == Pipelined), nil
}

// Open reads sub-partitions [lo, hi) of the partitions, in no fixed order
// between them. A missing or corrupt one is a *PartitionError (here or from
// Next). A pipelined partition may be opened before it is created; Next then
// waits for it.
func (s *Service) Open(_ context.Context, exchange string, parts []PartitionID, lo, hi int) (*Reader, error) {
	d, err := s.driver(exchange)
	if err != nil {
		return nil, err
	}
	r, err := d.Open(parts, lo, hi)
	if err != nil {
		return nil, fmt.Errorf("open shuffle input: %w", err)
	}
	return &Reader{from: r}, nil
}

// Release forgets partitions and frees their memory and files, as soon as the
// last open reader is closed. Unknown ids are fine.
func (s *Service) Release(ids ...PartitionID) {
	for _, d := range s.drivers {
		d.Release(ids...)
	}
}

// ReleaseJob releases all of a job, also what failed writers left.
func (s *Service) ReleaseJob(job string) {
	for _, d := range s.drivers {
		d.ReleaseJob(job)
	}
}

// Recover lists the partitions that an earlier process left and that can be
// opened. What the caller doesn't want it must release.
func (s *Service) Recover() []PartitionID {
	var ids []PartitionID
	for exchange, d := range s.drivers {
		if exchange != Stored { // others' are there, too
			ids = append(ids, d.Recover()...)
		}
	}
	return ids
}

// Held lists the partitions that this TaskManager keeps, closed and not
// released, and that outlive the tasks that wrote them. It names none that are
// Stored: those are in nobody's keeping.
func (s *Service) Held() []PartitionID {
	d, ok := s.drivers[Blocking].(interface{ Held() []PartitionID })
	if !ok {
		return nil
	}
	return d.Held()
}

// Stores reports whether new Blocking partitions outlive their TaskManager.
func (s *Service) Stores() bool { return s.drivers[Stored] != nil }

func (s *Service) driver(exchange string) (driver.Driver, error) {
	d := s.drivers[exchange]
	if d == nil {
		return nil, fmt.Errorf("no shuffle driver for exchange %q", exchange)
	}
	return d, nil
}

// A Reader gives the blocks of a range of sub-partitions. One goroutine uses
// it.
type Reader struct{ from driver.Reader }

// Next gives the next block, or io.EOF. The bytes are valid until the next
// call of Next or Close. Reading ahead is the reader's work.
func (r *Reader) Next(ctx context.Context) (elems []byte, count int, err error) {
	return r.from.Next(ctx)
}

// Close ends the reading. It must be called.
func (r *Reader) Close() { r.from.Close() }
