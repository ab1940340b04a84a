package driver

import (
	"context"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// A Stored block is one as it lies with its driver, with all that is needed to
// check and unpack it elsewhere.
type Stored struct {
	Part   int   // its partition: an index of what OpenStored was given
	Count  int   // of elements
	Raw    int   // bytes of the elements
	Size   int   // bytes as they are stored
	Packed bool  // by package pack
	Plain  bool  // nobody has tried to pack it; Place and Sum are not set
	Place  int64 // within its partition
	Sum    uint64
}

// A Forwarder is a Driver that gives blocks as they are stored, so that who
// sends them elsewhere need not unpack and pack them again, and their
// checksums hold from end to end.
type Forwarder interface {
	// OpenStored is Open for stored blocks. They come partition by partition, in
	// an order that is the same each time. The first skip blocks of the first
	// partition are left out.
	OpenStored(parts []PartitionID, lo, hi, skip int) (StoredReader, error)
}

// A StoredReader gives blocks until io.EOF. One goroutine uses it. A missing or
// damaged partition is a *PartitionError; that the stored bytes are right is
// for their last reader to check.
type StoredReader interface {
	// Next goes on to the next block.
	Next(ctx context.Context) (Stored, error)
	// Read gives the bytes of the block: in buf, which has at least Size bytes,
	// or where they are in memory already. They are valid until the next call of
	// Next or Close.
	Read(buf []byte) ([]byte, error)
	Close()
}

// Seed is different for different partitions; see Checksum.
func Seed(id PartitionID) uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%q %q %d %d", id.Job, id.Dataset, id.Index, id.Attempt))
}

// Checksum ties bytes to their place and their partition, so that the right
// bytes of another block are wrong.
func Checksum(bytes []byte, seed uint64, place int64) uint64 {
	return xxhash.Sum64(bytes) ^ seed ^ uint64(place)*0x9e3779b97f4a7c15
}
