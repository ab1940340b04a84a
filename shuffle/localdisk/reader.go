package localdisk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"
)

// ahead is how many blocks a reader has fetched that were not asked for yet.
const ahead = 2

// A source is what a reader reads of one partition.
type source struct {
	p       *partition
	entries []entry
	disk    bool
}

// A reader reads its sources one after another. Blocks in memory are given as
// they are; once there are some on disk, one goroutine fetches and decompresses
// ahead, from the first such call of Next until Close.
type reader struct {
	budget  *membudget.Budget
	sources []source
	disk    bool // a source is
	closed  bool

	// Without disk: the place of the next block.
	source, block int

	// With disk.
	fetched chan fetched // of capacity ahead; closed at the end
	stop    chan struct{}
	done    sync.WaitGroup
	current []byte // the last block given, if it must be freed
}

// A fetched block, or what went wrong.
type fetched struct {
	data  []byte
	count int
	own   bool // data is a chunk to be freed
	err   error
}

// sourceOf makes p's sub-partitions a source.
func sourceOf(p *partition, lo, hi int) (source, error) {
	if p == nil {
		return source{}, errors.New("it is not here")
	}
	entries, err := p.acquire(lo, hi)
	if err != nil {
		return source{}, err
	}
	src := source{p: p, entries: entries}
	src.disk = len(entries) > 0 && entries[0].kind != inMemory // all are alike
	if src.disk {
		// In the file's order, so that the disk reads forwards. The order within a
		// sub-partition may suffer by that only among blocks written at once, so
		// the sub-partition's own order is kept.
		src.entries = inFileOrder(entries)
	}
	return src, nil
}

// inFileOrder sorts by offset, but keeps the order within a sub-partition.
func inFileOrder(entries []entry) []entry {
	sorted := slices.Clone(entries)
	ordered := true
	for i := 1; i < len(entries); i++ {
		if entries[i].sub == entries[i-1].sub && entries[i].off < entries[i-1].off {
			ordered = false
		}
	}
	if ordered {
		slices.SortFunc(sorted, func(a, b entry) int { return cmp.Compare(a.off, b.off) })
	}
	return sorted
}

// Next gives the next block.
func (r *reader) Next(ctx context.Context) ([]byte, int, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, context.Cause(ctx)
	}
	if !r.disk {
		return r.nextInMemory()
	}
	if r.fetched == nil {
		r.fetched = make(chan fetched, ahead)
		r.stop = make(chan struct{})
		r.done.Go(r.fetch)
	}
	r.budget.Free(r.current)
	r.current = nil
	select {
	case f, ok := <-r.fetched:
		if !ok {
			return nil, 0, io.EOF
		}
		if f.own {
			r.current = f.data
		}
		return f.data, f.count, f.err
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
}

func (r *reader) nextInMemory() ([]byte, int, error) {
	for r.source < len(r.sources) {
		src := &r.sources[r.source]
		if r.block < len(src.entries) {
			e := &src.entries[r.block]
			r.block++
			return e.data, e.count, nil
		}
		r.source++
		r.block = 0
	}
	return nil, 0, io.EOF
}

// Close ends the fetching and lets the partitions go.
func (r *reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	if r.fetched != nil {
		close(r.stop)
		for f := range r.fetched {
			if f.own {
				r.budget.Free(f.data)
			}
		}
		r.done.Wait()
	}
	r.budget.Free(r.current)
	for _, src := range r.sources {
		src.p.letGo()
	}
	r.sources = nil
}

// fetch reads all sources in order.
func (r *reader) fetch() {
	defer close(r.fetched)
	for i := range r.sources {
		src := &r.sources[i]
		if err := r.fetchSource(src); err != nil {
			r.give(fetched{err: src.p.lostUnless(err)})
			return
		}
	}
}

// fetchSource gives all blocks of a source, until it fails or the reader is
// closed.
func (r *reader) fetchSource(src *source) error {
	var f *os.File
	if src.disk {
		var err error
		if f, err = openFile(src.p.path, r.stop); err != nil {
			return err
		}
		defer f.Close() // it was only read
	}
	for i := range src.entries {
		e := &src.entries[i]
		out := fetched{data: e.data, count: e.count}
		if e.kind != inMemory {
			data, err := readBlock(r.budget, f, e, src.p.seed)
			if err != nil {
				return err
			}
			out.data, out.own = data, true
		}
		if !r.give(out) {
			return nil
		}
	}
	return nil
}

// give hands f to Next. It reports whether the reader is still open.
func (r *reader) give(f fetched) bool {
	select {
	case <-r.stop: // first of all, lest a drained channel keep us going
	default:
		select {
		case r.fetched <- f:
			return true
		case <-r.stop:
		}
	}
	if f.own {
		r.budget.Free(f.data)
	}
	return false
}

// readBlock reads, checks and decompresses one block into a chunk.
func readBlock(budget *membudget.Budget, f io.ReaderAt, e *entry, seed uint64) ([]byte, error) {
	payload := budget.Chunk(e.stored)[:e.stored]
	if _, err := f.ReadAt(payload, e.off); err != nil {
		budget.Free(payload)
		return nil, fmt.Errorf("read block at %d: %w", e.off, unexpected(err))
	}
	if driver.Checksum(payload, seed, e.off) != e.sum {
		budget.Free(payload)
		return nil, fmt.Errorf("block at %d: wrong checksum", e.off)
	}
	if e.kind == rawOnDisk {
		return payload, nil
	}
	defer budget.Free(payload)
	data := budget.Chunk(e.raw)[:e.raw]
	if err := pack.Unpack(data, payload); err != nil {
		budget.Free(data)
		return nil, fmt.Errorf("block at %d: %w", e.off, err)
	}
	return data, nil
}
