package localdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Close sorts out what was published, and finishes the file if one is needed.
func (p *partition) Close() (durable string, err error) {
	p.mu.Lock()
	if p.state != writing {
		p.mu.Unlock()
		return "", errGone
	}
	entries, disk := p.committed()
	p.mu.Unlock()

	if disk {
		if err := p.flush(entries); err != nil {
			return "", err
		}
	}
	// The order within a sub-partition stays.
	slices.SortStableFunc(entries, func(a, b entry) int { return a.sub - b.sub })

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != writing { // released meanwhile
		for i := range entries {
			p.d.drop(&entries[i])
		}
		return "", errGone
	}
	p.entries = entries
	if !disk {
		p.dropFile() // it holds nothing that was committed
		p.state = finished
		return "memory", nil
	}
	if err := p.finish(); err != nil {
		return "", err
	}
	p.state = finished
	return "disk", nil
}

// committed takes the published blocks, and tells if any is on disk. (p.mu is
// held.)
func (p *partition) committed() (entries []entry, disk bool) {
	entries = make([]entry, 0, len(p.published))
	for _, ref := range p.published {
		entries = append(entries, p.entries[ref])
		disk = disk || p.entries[ref].kind != inMemory
	}
	p.entries, p.published = nil, nil
	return entries, disk
}

// flush writes the entries that are in memory.
func (p *partition) flush(entries []entry) error {
	var mem []entry
	var at []int
	for i := range entries {
		e := &entries[i]
		if e.kind == inMemory {
			p.d.retained.Drop(int64(cap(e.data)))
			mem = append(mem, *e)
			at = append(at, i)
			e.data = nil
		}
	}
	written, err := p.write(mem)
	for i, e := range written {
		entries[at[i]] = e
	}
	return err
}

// finish writes the index and the footer and gives the file its name. (p.mu is
// held; nobody else has a use for the partition before it is finished.)
func (p *partition) finish() error {
	index := appendIndex(nil, p.id, p.subs, p.entries, p.end)
	if _, err := p.file.WriteAt(index, p.end); err != nil {
		return fmt.Errorf("write shuffle index: %w", p.d.full(err))
	}
	if p.d.cfg.Sync {
		if err := p.file.Sync(); err != nil {
			return fmt.Errorf("sync shuffle file: %w", p.d.full(err))
		}
	}
	err := p.file.Close()
	p.file = nil
	if err != nil {
		return fmt.Errorf("close shuffle file: %w", p.d.full(err))
	}
	if err := os.Rename(p.unfinished(), p.path); err != nil {
		return fmt.Errorf("finish shuffle file: %w", p.d.full(err))
	}
	p.onDisk, p.made = true, false
	if p.d.cfg.Sync {
		return syncDir(filepath.Dir(p.path))
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync shuffle directory: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Abort gives the partition up.
func (p *partition) Abort(error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == writing {
		p.free()
	}
}

// release frees the partition as soon as nobody reads it.
func (p *partition) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.released = true
	if p.readers == 0 {
		p.free()
	}
}

// free drops all that the partition holds. (p.mu is held.)
func (p *partition) free() {
	p.state = gone
	for i := range p.entries {
		p.d.drop(&p.entries[i])
	}
	p.entries, p.published = nil, nil
	p.dropFile()
	if p.onDisk {
		_ = os.Remove(p.path) // if it stays, ReleaseJob or Recover finds it
		p.onDisk = false
	}
}

// dropFile closes and removes a file that is not finished. (p.mu is held.)
func (p *partition) dropFile() {
	if p.file != nil {
		_ = p.file.Close() // nothing in it counts any more
		p.file = nil
	}
	if p.made {
		_ = os.Remove(p.unfinished()) // or the next New does it
		p.made = false
	}
}

// acquire gives the blocks of sub-partitions [lo, hi), which stay until
// letGo.
func (p *partition) acquire(lo, hi int) ([]entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state == writing:
		return nil, errors.New("it is not closed yet")
	case p.state == gone || p.released:
		return nil, errGone
	case lo < 0 || lo > hi || hi > p.subs:
		return nil, fmt.Errorf("it has %d sub-partitions, not [%d, %d)", p.subs, lo, hi)
	}
	p.readers++
	from := p.firstOf(lo)
	to := p.firstOf(hi)
	return p.entries[from:to:to], nil
}

// firstOf is where the entries of sub and greater ones begin.
func (p *partition) firstOf(sub int) int {
	i, _ := slices.BinarySearchFunc(p.entries, sub, func(e entry, sub int) int {
		if e.sub < sub {
			return -1
		}
		return 1
	})
	return i
}

func (p *partition) readable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == finished && !p.released
}

func (p *partition) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readers--
	if p.released && p.readers == 0 {
		p.free()
	}
}
