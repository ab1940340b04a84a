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
package shuffle

import "context"

// A PartitionID names what one attempt of one producer task writes of one
// dataset. Every field is part of every file name.
type PartitionID struct {
	Job     string
	Dataset string
	Index   int    // of the producer task
	Attempt uint32 // of the producer task
}

// A Service is a TaskManager's writer and reader side of shuffle.
// (Skeleton: the room's owner completes it.)
type ServiceAPI interface {
	// Create starts a partition. It fails if that id was created before.
	Create(ctx context.Context, id PartitionID, subpartitions int, exchange string) (WriterAPI, error)
	// Open reads sub-partitions [lo, hi) of the partitions, in no fixed order
	// between them. A missing or corrupt one is a *PartitionError (here or from Next).
	Open(ctx context.Context, parts []PartitionID, lo, hi int) (ReaderAPI, error)
	// Release forgets partitions and frees their memory and files. Unknown ids are fine.
	Release(ids ...PartitionID)
	// ReleaseJob releases all of a job, also what failed writers left.
	ReleaseJob(job string)
}

// A WriterAPI writes one partition. Begin may be called from several
// goroutines; each Txn belongs to one.
type WriterAPI interface {
	Begin() TxnAPI
	// Close makes the partition readable once every Txn has ended, and tells
	// its size. Bytes are those of the elements, before compression.
	Close(ctx context.Context) (Sizes, error)
	// Abort gives the partition up and frees all of it. Abort after Close does nothing.
	Abort()
}

// A TxnAPI stages what one bundle writes. Nothing is seen by readers before
// Commit returns nil. It spills by itself when it grows.
type TxnAPI interface {
	// Append copies one or more whole elements. It takes no lock and allocates
	// nothing in the steady state.
	Append(sub int, elems []byte, count int) error
	Commit() error
	Abort()
}

// A ReaderAPI gives blocks until io.EOF. The bytes are valid until the next
// call of Next or Close. Reading ahead is the reader's work.
type ReaderAPI interface {
	Next(ctx context.Context) (elems []byte, count int, err error)
	Close()
}

// Sizes tell what a partition holds.
type Sizes struct {
	Bytes   int64
	Count   int64
	BySub   []int64 // bytes of each sub-partition
	Durable string  // "memory", "disk" or "blob": what is lost with what
}

// A PartitionError names a partition that is missing or corrupt. Its producer
// must run again.
type PartitionError struct {
	Partition PartitionID
	Err       error
}

func (e *PartitionError) Error() string { return "shuffle partition: " + e.Err.Error() }
func (e *PartitionError) Unwrap() error { return e.Err }
