// Package driver is the seam between shuffle and the places where partitions
// are kept.
//
// Package shuffle stages what bundles write, cuts it into blocks and decides
// what is committed; a Driver keeps blocks and gives them back. A block is some
// whole elements of one sub-partition, one after another, with their count; it
// is never cut, merged or looked into below this line, so a driver may
// compress it, send it elsewhere or hand the same bytes on.
//
// Every driver promises what shuffletest checks: committed blocks come back as
// they were, each once; blocks that were only staged never do; what is damaged
// or gone is an error and never other bytes. A driver needs no order between
// blocks of different sub-partitions, and keeps the order within one
// sub-partition of one partition.
//
// Buffers: the Data of blocks comes from the budget that shuffle and its
// drivers share. Stage and Publish take it over, also when they fail; what
// Next returns stays the driver's and is valid until the next call.
package driver

import (
	"context"
	"fmt"
)

// A PartitionID names what one attempt of one producer task writes of one
// dataset. Every field is part of every file name.
type PartitionID struct {
	Job     string
	Dataset string
	Index   int    // of the producer task
	Attempt uint32 // of the producer task
}

// String prints id for people.
func (id PartitionID) String() string {
	return fmt.Sprintf("%s/%s/%d@%d", id.Job, id.Dataset, id.Index, id.Attempt)
}

// A Block is some whole elements of one sub-partition.
type Block struct {
	Sub   int
	Count int    // of elements
	Data  []byte // the elements; nil once staged
	Ref   int    // what the driver knows a staged block by
}

// Staged reports whether the block's bytes are with the driver.
func (b *Block) Staged() bool { return b.Data == nil }

// A Driver keeps partitions. Its methods are safe for concurrent use.
type Driver interface {
	// Create starts a partition. An id can be created once, also after its
	// release, until its job is released.
	Create(id PartitionID, subpartitions int) (Partition, error)
	// Open reads sub-partitions [lo, hi) of partitions that are closed
	// (blocking drivers), or may still be written or even not be created
	// yet (pipelined ones). A missing or damaged one is a *PartitionError.
	Open(parts []PartitionID, lo, hi int) (Reader, error)
	// Release forgets partitions and frees what they hold, once nobody reads
	// them any more. Unknown ids are fine.
	Release(ids ...PartitionID)
	// ReleaseJob releases all of a job, also what failed writers left.
	ReleaseJob(job string)
	// Recover lists closed partitions that an earlier process left and that
	// are whole as far as their index tells.
	Recover() []PartitionID
}

// A Partition is the writing side of one partition. Stage, Publish and Discard
// may be called from several goroutines, Close and Abort when no other call is
// under way; only Abort may also come in the midst of a Publish, to end it.
type Partition interface {
	// Stage takes the block's bytes out of memory. No reader sees them before
	// they are published.
	Stage(b *Block) error
	// Publish makes blocks, staged or not, part of the partition. A pipelined
	// driver waits here for its readers. After an error the partition can only
	// be aborted.
	Publish(ctx context.Context, blocks []Block) error
	// Discard forgets blocks that won't be published.
	Discard(blocks []Block)
	// Close ends the partition and tells what it dies with: "memory", "disk"
	// or "blob".
	Close() (durable string, err error)
	// Abort gives the partition up; its readers get cause. Abort after Close
	// does nothing.
	Abort(cause error)
}

// A Reader gives blocks until io.EOF. One goroutine uses it. Data is valid
// until the next call of Next or Close. A missing or damaged partition is a
// *PartitionError.
type Reader interface {
	Next(ctx context.Context) (data []byte, count int, err error)
	Close()
}

// A PartitionError names a partition that is missing or damaged. Its producer
// must run again. Its writer gets one when its reader has left.
type PartitionError struct {
	Partition PartitionID
	Err       error
}

func (e *PartitionError) Error() string {
	return fmt.Sprintf("shuffle partition %v: %v", e.Partition, e.Err)
}

// Unwrap gives the reason.
func (e *PartitionError) Unwrap() error { return e.Err }

// Lost makes one error of partitions that are missing or damaged, at least one.
// It prints the first; LostIn gives them all.
func Lost(all []*PartitionError) error {
	if len(all) == 1 {
		return all[0]
	}
	return lostError(all)
}

type lostError []*PartitionError

func (e lostError) Error() string {
	return fmt.Sprintf("%v (and %d other partitions)", e[0], len(e)-1)
}

// Unwrap gives each.
func (e lostError) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// LostIn lists the partitions that err says are missing or damaged.
func LostIn(err error) []*PartitionError {
	switch e := err.(type) { //nolint:errorlint // it unwraps by itself, since there may be many
	case *PartitionError:
		return []*PartitionError{e}
	case lostError:
		return e
	case interface{ Unwrap() []error }:
		var all []*PartitionError
		for _, one := range e.Unwrap() {
			all = append(all, LostIn(one)...)
		}
		return all
	case interface{ Unwrap() error }:
		return LostIn(e.Unwrap())
	}
	return nil
}
