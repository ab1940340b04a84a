package blob

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"

	"trestle/internal/bucket"
	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"

	"github.com/cespare/xxhash/v2"
)

// A state is how far a partition has come.
type state int

const (
	writing state = iota
	uploading
	finished // by Close; readable
	gone     // by Abort or Release
)

var (
	errGone   = errors.New("it was given up or released")
	errOpen   = errors.New("it is not closed yet")
	errClosed = errors.New("the driver is closed")
	errTwin   = errors.New("another process wrote a partition of this name")
)

// An entry is a block in the form in which it is uploaded.
type entry struct {
	frame        // but for its sum
	hash  uint64 // of the payload
	data  []byte // the payload: a chunk, or nil if it is in the file
	at    int64  // where in the file
}

// A partition is the writing side of one partition.
type partition struct {
	d     *Driver
	id    driver.PartitionID
	subs  int
	nonce uint64

	packer pack.Packer

	mu        sync.Mutex
	state     state
	file      *os.File // without a name; nil until something is in it
	end       int64    // of what is written or being written to file
	writers   int      // of the file, under way
	entries   []entry  // Block.Ref counts in it
	published []int    // refs in order

	maybeThere bool // an upload failed, and may have succeeded all the same
}

var _ driver.Partition = (*partition)(nil)

func newPartition(d *Driver, id driver.PartitionID, subs int) *partition {
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	return &partition{d: d, id: id, subs: subs, nonce: binary.LittleEndian.Uint64(nonce[:])}
}

// readable tells why the partition can't be read.
func (p *partition) readable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case finished:
		return nil
	case gone:
		return errGone
	}
	return errOpen
}

// Stage writes a block to the file.
func (p *partition) Stage(b *driver.Block) error {
	e, err := p.pack(b)
	if err == nil {
		err = p.spill(&e)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b.Ref = len(p.entries)
	p.entries = append(p.entries, e)
	return nil
}

// Publish keeps blocks in memory if it may, and else in the file.
func (p *partition) Publish(_ context.Context, blocks []driver.Block) error {
	added := make([]entry, 0, len(blocks))
	var failed error
	for i := range blocks {
		b := &blocks[i]
		if b.Staged() {
			continue
		}
		if failed != nil {
			p.d.cfg.Budget.Free(b.Data)
			b.Data = nil
			continue
		}
		e, err := p.pack(b)
		if err == nil && !p.d.retained.Keep(int64(cap(e.data))) {
			err = p.spill(&e)
		}
		if err != nil {
			failed = err
			continue
		}
		b.Ref = -1 - len(added)
		added = append(added, e)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if failed == nil && p.state != writing {
		failed = errGone
	}
	if failed != nil {
		for i := range added {
			p.d.drop(&added[i])
		}
		return failed
	}
	for i := range blocks {
		b := &blocks[i]
		if b.Ref < 0 {
			e := added[-1-b.Ref]
			b.Ref = len(p.entries)
			p.entries = append(p.entries, e)
		}
		p.published = append(p.published, b.Ref)
	}
	return nil
}

// Discard forgets staged blocks: what they left in the file is not uploaded.
func (p *partition) Discard([]driver.Block) {}

// pack takes a block over into a chunk that fits its packed form. After an
// error the block's chunk is free.
func (p *partition) pack(b *driver.Block) (entry, error) {
	budget := p.d.cfg.Budget
	data := b.Data
	b.Data = nil
	need := pack.MaxLen(len(data))
	if need < 0 || len(data) >= math.MaxUint32 || b.Count > math.MaxUint32 {
		budget.Free(data)
		return entry{}, fmt.Errorf("a block of %d elements with %d bytes is too large", b.Count, len(data))
	}
	e := entry{frame: frame{sub: b.Sub, count: b.Count, raw: len(data)}, data: data}
	room := budget.Chunk(need)
	out, packed := p.packer.Append(room, data)
	if packed {
		e.packed = true
		budget.Free(data)
		if membudget.ChunkSize(len(out)) < cap(room) {
			e.data = append(budget.Chunk(len(out)), out...)
			budget.Free(room)
		} else {
			e.data = out
		}
	} else {
		budget.Free(room)
	}
	e.stored = len(e.data)
	e.hash = xxhash.Sum64(e.data)
	return e, nil
}

// spill moves an entry's payload to the file, and frees its chunk also when
// that fails.
func (p *partition) spill(e *entry) error {
	data := e.data
	e.data = nil
	defer p.d.cfg.Budget.Free(data)
	f, at, err := p.reserve(len(data))
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	e.at = at
	p.d.cfg.Budget.Spilled(int64(len(data)))

	p.mu.Lock()
	defer p.mu.Unlock()
	p.writers--
	p.closeFile()
	if err != nil {
		return fmt.Errorf("write shuffle file: %w", err)
	}
	return nil
}

// reserve finds a place for n bytes in the file, making it if there is none.
func (p *partition) reserve(n int) (f *os.File, at int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != writing {
		return nil, 0, errGone
	}
	if p.file == nil {
		if p.file, err = unnamed(p.d.cfg.Dir); err != nil {
			p.file = nil
			return nil, 0, fmt.Errorf("create shuffle file: %w", err)
		}
	}
	at = p.end
	p.end += int64(n)
	p.writers++
	return p.file, at, nil
}

// unnamed makes a file that is gone with its last user.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "partition-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // the first error says it
		return nil, err
	}
	return f, nil
}

// Close uploads the partition.
func (p *partition) Close() (durable string, err error) {
	p.mu.Lock()
	if p.state != writing {
		p.mu.Unlock()
		return "", errGone
	}
	p.state = uploading
	entries := make([]entry, len(p.published))
	for i, ref := range p.published {
		entries[i] = p.entries[ref]
	}
	file := p.file
	p.writers++ // the file stays until the upload has ended
	p.mu.Unlock()

	// The order within a sub-partition stays.
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.sub, b.sub) })
	err = p.upload(newBody(p.id, p.subs, p.nonce, entries, file))

	p.mu.Lock()
	defer p.mu.Unlock()
	p.writers--
	released := p.state == gone
	switch {
	case err == nil && !released:
		p.state = finished
	case err != nil && !released:
		p.state = writing // Abort is to end it
		p.maybeThere = !errors.Is(err, errTwin)
	}
	if err == nil || released {
		p.free()
	}
	if released {
		// Its object may have come after the deletion.
		p.d.deletions.add(p.d.key(p.id))
		return "", errGone
	}
	if err != nil {
		return "", err
	}
	return "blob", nil
}

// upload puts the object where none is.
func (p *partition) upload(b *body) error {
	if p.d.life.Err() != nil {
		return errClosed
	}
	err := p.d.bucket.Put(p.d.life, p.d.key(p.id), b, b.size, true)
	if !errors.Is(err, bucket.ErrExists) {
		return err
	}
	// It is ours if a try's answer was lost, or else an attempt's that has our
	// number.
	h, _, _, err := p.d.readHead(p.d.life, p.id, make([]byte, firstBytes))
	if err != nil {
		return fmt.Errorf("an object of this name exists: %w", err)
	}
	if h.nonce != p.nonce {
		return errTwin
	}
	return nil
}

// Abort gives the partition up.
func (p *partition) Abort(error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == writing {
		p.state = gone
		p.free()
		if p.maybeThere {
			p.d.deletions.add(p.d.key(p.id))
		}
	}
}

// drop forgets the partition, whatever is under way.
func (p *partition) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == uploading {
		p.state = gone // Close does the rest
		return
	}
	p.state = gone
	p.free()
}

// free gives back what is in memory and on disk. (p.mu is held.)
func (p *partition) free() {
	for i := range p.entries {
		p.d.drop(&p.entries[i])
	}
	p.entries, p.published = nil, nil
	p.closeFile()
}

// closeFile ends the file of a partition that has ended, once nobody writes to
// it or reads it. (p.mu is held.)
func (p *partition) closeFile() {
	if p.file != nil && p.writers == 0 && (p.state == gone || p.state == finished) {
		_ = p.file.Close() // nothing in it counts any more
		p.file = nil
	}
}

// drop frees an entry that is in memory.
func (d *Driver) drop(e *entry) {
	if e.data != nil {
		d.retained.Drop(int64(cap(e.data)))
		d.cfg.Budget.Free(e.data)
		e.data = nil
	}
}
