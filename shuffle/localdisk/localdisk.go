// Package localdisk keeps blocking partitions in memory while there is room
// and on a local disk beyond it.
//
// A partition begins in memory, as blocks that are neither compressed nor
// copied. When the budget is short, or partitions hold their share of it, or a
// bundle's output must be staged, blocks go to the partition's one file,
// compressed where that helps and with a checksum each. A partition that has
// anything on disk when it is closed goes there wholly, and is finished by an
// index and a footer with checksums and a rename: what has no valid footer is
// no partition. Every name holds the attempt, and files are created
// exclusively, so that attempts share nothing.
//
// What it promises: a read gives what was committed, or a *PartitionError. A
// flipped bit, a torn or lost write, a truncated or exchanged file is noticed
// by a checksum over bytes, place and partition.
//
// "disk" partitions survive their process. They survive a loss of power only
// with Config.Sync: without it what was lost is noticed by the checksums and
// made again, which is cheaper than a synced write for each partition of each
// job. "memory" partitions die with their process.
package localdisk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// A Config says how much is kept where. The zero value but for Budget is good.
type Config struct {
	// Budget counts what is kept in memory. It is the one that the blocks'
	// chunks come from.
	Budget *membudget.Budget
	// Retain is how many bytes finished and growing partitions may keep in
	// memory; 0 means half of the budget. Those who group and stage need the
	// rest.
	Retain int64
	// Sync makes Close wait until the partition is on stable storage.
	Sync bool
}

// A Driver keeps the partitions of one directory. It is safe for concurrent
// use.
type Driver struct {
	dir    string
	cfg    Config
	create func(path string) (file, error) // os.OpenFile but in tests

	retained *membudget.Share // blocks kept in memory

	mu    sync.Mutex
	parts map[string]map[driver.PartitionID]*partition // by job; also released ones, until their job is
}

var _ driver.Driver = (*Driver)(nil)

// A file is what a partition writes to.
type file interface {
	WriteAt(b []byte, off int64) (int, error)
	Sync() error
	Close() error
}

// New returns a driver on dir, which it makes if needed and which no other
// process may use. Unfinished files of an earlier process are removed; for
// finished ones see Recover.
func New(dir string, cfg Config) (*Driver, error) {
	d := &Driver{dir: dir, cfg: cfg, retained: cfg.Budget.Share(cfg.Retain), create: createFile, parts: make(map[string]map[driver.PartitionID]*partition)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("shuffle directory: %w", err)
	}
	unfinished, err := filepath.Glob(filepath.Join(globEscape(dir), "*", "*"+unfinishedSuffix))
	if err != nil {
		return nil, fmt.Errorf("shuffle directory: %w", err)
	}
	for _, path := range unfinished {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove what an earlier process left: %w", err)
		}
	}
	return d, nil
}

func createFile(path string) (file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Create starts a partition.
func (d *Driver) Create(id driver.PartitionID, subpartitions int) (driver.Partition, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts[id.Job][id] != nil {
		return nil, fmt.Errorf("it was created before")
	}
	p := newPartition(d, id, subpartitions)
	if _, err := os.Lstat(p.path); err == nil {
		return nil, fmt.Errorf("an earlier process created it before")
	}
	d.note(p)
	return p, nil
}

// note makes p known. (d.mu is held.)
func (d *Driver) note(p *partition) {
	if d.parts[p.id.Job] == nil {
		d.parts[p.id.Job] = make(map[driver.PartitionID]*partition)
	}
	d.parts[p.id.Job][p.id] = p
}

func (d *Driver) find(id driver.PartitionID) *partition {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.parts[id.Job][id]
}

// Open reads sub-partitions [lo, hi) of closed partitions. Its error names all
// partitions that are missing.
func (d *Driver) Open(ids []driver.PartitionID, lo, hi int) (driver.Reader, error) {
	sources, err := d.sources(ids, lo, hi)
	if err != nil {
		return nil, err
	}
	r := &reader{budget: d.cfg.Budget, sources: sources}
	for i := range sources {
		r.disk = r.disk || sources[i].disk
	}
	return r, nil
}

// sources acquires all partitions, or none.
func (d *Driver) sources(ids []driver.PartitionID, lo, hi int) ([]source, error) {
	var all []source
	var missing []*driver.PartitionError
	for _, id := range ids {
		src, err := sourceOf(d.find(id), lo, hi)
		if err != nil {
			missing = append(missing, &driver.PartitionError{Partition: id, Err: err})
			continue
		}
		all = append(all, src)
	}
	if len(missing) == 0 {
		return all, nil
	}
	for _, src := range all {
		src.p.letGo()
	}
	return nil, driver.Lost(missing)
}

// Release forgets partitions and frees what they hold, once nobody reads them
// any more.
func (d *Driver) Release(ids ...driver.PartitionID) {
	for _, id := range ids {
		if p := d.find(id); p != nil {
			p.release()
		}
	}
}

// ReleaseJob releases all of a job and removes its directory.
func (d *Driver) ReleaseJob(job string) {
	d.mu.Lock()
	mine := d.parts[job]
	delete(d.parts, job)
	d.mu.Unlock()
	for _, p := range mine {
		p.release()
	}
	// An open reader of a released partition keeps its open file, and gets an
	// error for one that it has not come to: its job is over.
	_ = os.RemoveAll(d.jobDir(job)) // what can't be removed now is found by Recover
}

// Recover lists the finished partitions that an earlier process left, makes
// them readable, and removes files that are damaged. Call it once, first.
func (d *Driver) Recover() []driver.PartitionID {
	paths, _ := filepath.Glob(filepath.Join(globEscape(d.dir), "*", "*"+finishedSuffix)) // the pattern is good
	var ids []driver.PartitionID
	for _, path := range paths {
		p, err := loadPartition(d, path)
		if busy(err) {
			continue // it isn't known: a later process may find it whole
		}
		if err != nil || p.path != path {
			_ = os.Remove(path) // it is lost either way; its readers will say so
			continue
		}
		d.mu.Lock()
		if d.parts[p.id.Job][p.id] == nil {
			d.note(p)
			ids = append(ids, p.id)
		}
		d.mu.Unlock()
	}
	return ids
}

// Held lists the partitions that are closed and not released.
func (d *Driver) Held() []driver.PartitionID {
	d.mu.Lock()
	var all []*partition
	for _, job := range d.parts {
		for _, p := range job {
			all = append(all, p)
		}
	}
	d.mu.Unlock()
	var ids []driver.PartitionID
	for _, p := range all {
		if p.readable() {
			ids = append(ids, p.id)
		}
	}
	return ids
}

// globEscape keeps a directory's own characters from being a pattern.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
