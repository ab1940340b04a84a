package localdisk

import (
	"context"
	"fmt"
	"io"
	"os"

	"trestle/shuffle/driver"
)

var _ driver.Forwarder = (*Driver)(nil)

// OpenStored reads sub-partitions [lo, hi) of closed partitions, as they are.
func (d *Driver) OpenStored(ids []driver.PartitionID, lo, hi, skip int) (driver.StoredReader, error) {
	sources, err := d.sources(ids, lo, hi)
	if err != nil {
		return nil, err
	}
	return &storedReader{d: d, sources: sources, block: skip}, nil
}

// A storedReader reads its sources one after another, without fetching ahead:
// who sends blocks away is ahead of the network by itself.
type storedReader struct {
	d       *Driver
	sources []source
	source  int // of the next block
	block   int
	entry   *entry   // of the last block
	file    *os.File // of sources[source], once a block was read from it
}

// Next goes on to the next block.
func (r *storedReader) Next(ctx context.Context) (driver.Stored, error) {
	if err := ctx.Err(); err != nil {
		return driver.Stored{}, context.Cause(ctx)
	}
	for r.source < len(r.sources) {
		src := &r.sources[r.source]
		if r.block < len(src.entries) {
			r.entry = &src.entries[r.block]
			r.block++
			return r.entry.asStored(r.source), nil
		}
		r.closeFile()
		r.source++
		r.block = 0
	}
	return driver.Stored{}, io.EOF
}

func (e *entry) asStored(part int) driver.Stored {
	b := driver.Stored{Part: part, Count: e.count, Raw: e.raw, Size: e.raw}
	if e.kind == inMemory {
		b.Plain = true
		return b
	}
	b.Size, b.Packed, b.Place, b.Sum = e.stored, e.kind == compressed, e.off, e.sum
	return b
}

// Read gives the bytes of the block.
func (r *storedReader) Read(buf []byte) ([]byte, error) {
	e := r.entry
	if e.kind == inMemory {
		return e.data, nil
	}
	p := r.sources[r.source].p
	if r.file == nil {
		f, err := openFile(p.path, nil)
		if err != nil {
			return nil, p.lostUnless(err)
		}
		r.file = f
	}
	buf = buf[:e.stored]
	if _, err := r.file.ReadAt(buf, e.off); err != nil {
		return nil, p.lostUnless(fmt.Errorf("read block at %d: %w", e.off, unexpected(err)))
	}
	return buf, nil
}

func (r *storedReader) closeFile() {
	if r.file != nil {
		_ = r.file.Close() // it was only read
		r.file = nil
	}
}

// Close lets the partitions go.
func (r *storedReader) Close() {
	r.closeFile()
	for _, src := range r.sources {
		src.p.letGo()
	}
	r.sources = nil
}
