package localdisk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"
)

// A state is how far a partition has come.
type state int

const (
	writing  state = iota
	finished       // by Close; readable
	gone           // by Abort or Release
)

// A partition is one partition, from its creation until its job is released.
type partition struct {
	d    *Driver
	id   driver.PartitionID
	subs int
	seed uint64 // of its checksums
	path string // of the finished file

	packer pack.Packer

	mu        sync.Mutex
	state     state
	file      file    // nil until a block is staged, and after the end of writing
	made      bool    // there is an unfinished file
	end       int64   // of what is written or being written to file
	entries   []entry // Block.Ref counts in it; after Close sorted by sub-partition
	published []int   // refs in order; nil after Close
	readers   int     // open ones
	released  bool    // free everything once readers is 0
	onDisk    bool    // there is a finished file
}

var _ driver.Partition = (*partition)(nil)

var errGone = errors.New("it was given up or released")

func newPartition(d *Driver, id driver.PartitionID, subs int) *partition {
	return &partition{d: d, id: id, subs: subs, seed: driver.Seed(id), path: d.path(id)}
}

// loadPartition makes a partition of a finished file.
func loadPartition(d *Driver, path string) (*partition, error) {
	id, subs, entries, err := readIndex(path)
	if err != nil {
		return nil, err
	}
	p := newPartition(d, id, subs)
	p.entries, p.state, p.onDisk = entries, finished, true
	return p, nil
}

func (p *partition) unfinished() string {
	return strings.TrimSuffix(p.path, finishedSuffix) + unfinishedSuffix
}

// Stage writes a block to the file.
func (p *partition) Stage(b *driver.Block) error {
	entries, err := p.write([]entry{{sub: b.Sub, count: b.Count, raw: len(b.Data), data: b.Data}})
	b.Data = nil
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b.Ref = len(p.entries)
	p.entries = append(p.entries, entries...)
	return nil
}

// write moves blocks from memory to the file, several with one system call
// where they are small, and frees their chunks, also when it fails.
func (p *partition) write(blocks []entry) ([]entry, error) {
	budget := p.d.cfg.Budget
	var failed error
	buf := budget.Chunk(membudget.MaxChunk)
	first := 0 // of the blocks whose payload is in buf
	flush := func(until int) {
		if failed == nil {
			failed = p.append(buf, blocks[first:until])
		}
		buf, first = buf[:0], until
	}
	for i := range blocks {
		b := &blocks[i]
		need := pack.MaxLen(len(b.data))
		if need < 0 {
			failed = fmt.Errorf("a block of %d bytes is too large", len(b.data))
		} else if failed == nil {
			if len(buf)+need > cap(buf) {
				flush(i)
			}
			if need > cap(buf) {
				budget.Free(buf)
				buf = budget.Chunk(need)
			}
			b.off = int64(len(buf)) // from the start of buf, until it is written
			buf = p.encode(buf, b)
		}
		budget.Free(b.data)
		b.data = nil
	}
	flush(len(blocks))
	budget.Free(buf)
	return blocks, failed
}

// encode appends the block's payload to dst, which has room for it.
func (p *partition) encode(dst []byte, e *entry) []byte {
	out, packed := p.packer.Append(dst, e.data)
	e.kind = rawOnDisk
	if packed {
		e.kind = compressed
	}
	e.stored = len(out) - len(dst)
	return out
}

// append writes payloads at the file's end and completes their entries.
func (p *partition) append(payloads []byte, blocks []entry) error {
	if len(payloads) == 0 {
		return nil
	}
	f, at, err := p.reserve(len(payloads))
	if err != nil {
		return err
	}
	for i := range blocks {
		b := &blocks[i]
		payload := payloads[b.off:][:b.stored]
		b.off += at
		b.sum = driver.Checksum(payload, p.seed, b.off)
	}
	if _, err := f.WriteAt(payloads, at); err != nil {
		return fmt.Errorf("write shuffle file: %w", p.d.full(err))
	}
	p.d.cfg.Budget.Spilled(int64(len(payloads)))
	return nil
}

// reserve finds a place for n bytes in the file, making it if there is none.
func (p *partition) reserve(n int) (f file, at int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != writing {
		return nil, 0, errGone
	}
	if p.file == nil {
		f, err := p.d.create(p.unfinished())
		if err != nil { // p.file stays nil, and not an interface with nil in it
			return nil, 0, fmt.Errorf("create shuffle file: %w", p.d.full(err))
		}
		p.file, p.made = f, true
	}
	at = p.end
	p.end += int64(n)
	return p.file, at, nil
}

// Publish keeps blocks in memory if it may, and else writes them.
func (p *partition) Publish(_ context.Context, blocks []driver.Block) error {
	kept := make([]entry, 0, len(blocks))
	var spill []entry
	for i := range blocks {
		b := &blocks[i]
		if b.Staged() {
			continue
		}
		e := entry{sub: b.Sub, count: b.Count, raw: len(b.Data), data: b.Data}
		if p.d.retained.Keep(int64(cap(b.Data))) {
			b.Ref = len(kept)
			kept = append(kept, e)
		} else {
			b.Ref = -1 - len(spill)
			spill = append(spill, e)
		}
	}
	if len(spill) > 0 {
		var err error
		if spill, err = p.write(spill); err != nil {
			p.forgetKept(kept)
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != writing {
		p.forgetKept(kept)
		return errGone
	}
	for i := range blocks {
		b := &blocks[i]
		if !b.Staged() {
			e := &spill
			at := -1 - b.Ref
			if b.Ref >= 0 {
				e, at = &kept, b.Ref
			}
			b.Ref = len(p.entries)
			p.entries = append(p.entries, (*e)[at])
		}
		p.published = append(p.published, b.Ref)
	}
	return nil
}

// forgetKept frees blocks that were to stay in memory.
func (p *partition) forgetKept(kept []entry) {
	for i := range kept {
		p.d.drop(&kept[i])
	}
}

// drop frees a block that is kept in memory.
func (d *Driver) drop(e *entry) {
	if e.data != nil {
		d.retained.Drop(int64(cap(e.data)))
		d.cfg.Budget.Free(e.data)
		e.data = nil
	}
}

// Discard forgets staged blocks. What they left in the file is named by no
// index.
func (p *partition) Discard([]driver.Block) {}
