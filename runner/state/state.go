// Package state keeps what user code remembers between the elements of a key.
//
// User state is cells: a bag, a multimap or an ordered list for each transform,
// state id, window and key. A Bundle answers the state requests of one bundle.
// What the bundle writes is staged: it reads it back, others see it only after
// Commit, and after Abort it is as if it had never run, so that it can run
// again.
//
// Behind a Bundle is a backend that holds the committed cells. The one for
// bounded input is Batch: a task is handed its elements key by key, so state is
// held for the keys at hand only and dropped when they are done. It holds cells
// in memory; of bags that outgrow the budget the tail stays in memory and the
// rest is in a temporary file. Ordered lists, and keys of multimaps, are always
// in memory. The one for unbounded input is Keyed: it has the state of all keys,
// those that were not used lately on disk, and of bags of more than a page all but
// the tail. Behind it is a Table, which holds
// whatever else a task knows of its keys, too.
//
// Values are the SDK's bytes. Bags and multimaps never look into them; ordered
// lists expect what Beam's Fn API prescribes, a varint sort key and a length
// prefixed value. Go workers of 2.77 write the bare value there: their state's
// coder must be length prefixed in the descriptor.
package state

import (
	"maps"
	"slices"
	"sync"

	"trestle/internal/membudget"
)

// A kind of cell is part of its id: one state id may not be two kinds.
type kind byte

const (
	bagKind kind = iota + 1
	mapKind
	listKind
)

// A cellID names a cell.
type cellID struct {
	kind                          kind
	transform, state, window, key string
}

// A backend holds committed cells. What it returns is not changed.
type backend interface {
	// load makes sure that the cells of a key can be asked for, until the bundle
	// ends.
	load(key string) error
	// quick reports whether all of a key can be had without waiting for the disk or
	// for somebody else. It doesn't wait.
	quick(key []byte) bool
	bag(id cellID) bag
	mapValue(id cellID, mapKey string) bag
	mapKeys(id cellID) []string // in any order
	list(id cellID) list
	// apply commits what one bundle staged, all of it or nothing.
	apply(changes map[cellID]*change) error
}

// A change is what a bundle staged for one cell.
type change struct {
	bag  bag             // bagKind: the new content
	list list            // listKind: the new content
	gone bool            // mapKind: all map keys that are not in vals are gone
	vals map[string]*bag // mapKind: the new content of some map keys; empty is gone
}

// Options say how much state may take and what the stage declares.
type Options struct {
	Budget    *membudget.Budget // required
	Dir       string            // for temporary files; the system's if empty
	PageBytes int               // of a page to the worker; 1 MiB if zero
	// Declared lists the state ids of each transform. If it is not nil, requests
	// for others are refused.
	Declared map[string][]string
}

const (
	defaultPageBytes = 1 << 20
	// cellBytes is about what a cell, a map key or a list entry costs besides
	// its own bytes.
	cellBytes = 96
)

// Batch is the state of the keys at hand. It is safe for concurrent use, but
// two bundles that are under way at once must not write one key.
type Batch struct {
	opt   Options
	spill spill

	mu    sync.RWMutex
	cells map[cellID]*cell
	held  int64 // bytes taken from the budget for cells
}

// A cell is committed; only apply changes it.
type cell struct {
	bag      bag
	list     list
	vals     map[string]bag
	valBytes int64 // of memory for vals
	bytes    int64 // of memory for all; 0 if empty
}

// NewBatch returns a state without cells. Close it to free what it holds.
func NewBatch(opt Options) *Batch {
	if opt.PageBytes == 0 {
		opt.PageBytes = defaultPageBytes
	}
	return &Batch{opt: opt, spill: spill{dir: opt.Dir}, cells: make(map[cellID]*cell)}
}

// Reset forgets all state, for the next keys. No bundle may be under way.
func (s *Batch) Reset() error {
	s.mu.Lock()
	s.opt.Budget.Give(s.held)
	s.held = 0
	clear(s.cells)
	s.mu.Unlock()
	return s.spill.reset()
}

// Drop forgets what a key has in a window: the window has expired. No bundle
// may be under way.
func (s *Batch) Drop(window, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for transform, states := range s.opt.Declared {
		for _, state := range states {
			for k := bagKind; k <= listKind; k++ {
				id := cellID{kind: k, transform: transform, state: state, window: window, key: key}
				if c := s.cells[id]; c != nil {
					s.held -= c.bytes
					s.opt.Budget.Give(c.bytes)
					delete(s.cells, id)
				}
			}
		}
	}
}

// Close forgets all state for good.
func (s *Batch) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opt.Budget.Give(s.held)
	s.held, s.cells = 0, nil
	s.spill.close()
}

// Bundle begins a bundle; end it with Commit or Abort.
func (s *Batch) Bundle() *Bundle {
	return &Bundle{backend: s, shelf: &s.spill, opt: s.opt, changes: make(map[cellID]*change)}
}

func (s *Batch) load(string) error { return nil }

// quick is false from the first write to the file on, until all is forgotten.
func (s *Batch) quick([]byte) bool { return !s.spill.used.Load() }

func (s *Batch) bag(id cellID) bag {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.cells[id]; c != nil {
		return c.bag
	}
	return bag{}
}

func (s *Batch) list(id cellID) list {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.cells[id]; c != nil {
		return c.list
	}
	return nil
}

func (s *Batch) mapValue(id cellID, mapKey string) bag {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.cells[id]; c != nil {
		return c.vals[mapKey]
	}
	return bag{}
}

func (s *Batch) mapKeys(id cellID) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.cells[id]; c != nil {
		return slices.Collect(maps.Keys(c.vals))
	}
	return nil
}

func (s *Batch) apply(changes map[cellID]*change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, ch := range changes {
		c := s.cells[id]
		if c == nil {
			c = &cell{}
		}
		before := c.bytes
		c.apply(id, ch)
		s.held += c.bytes - before
		s.opt.Budget.Take(c.bytes - before)
		if c.empty() {
			delete(s.cells, id)
		} else {
			s.cells[id] = c
		}
	}
	return nil
}

func (c *cell) empty() bool { return c.bag.size == 0 && len(c.list) == 0 && len(c.vals) == 0 }

func (c *cell) apply(id cellID, ch *change) {
	switch id.kind {
	case bagKind:
		c.bag = ch.bag
	case listKind:
		c.list = ch.list
	case mapKind:
		c.applyMap(ch)
	}
	c.bytes = 0
	if !c.empty() {
		c.bytes = cellBytes + int64(len(id.key)+len(id.window)) + c.bag.memory() + c.list.memory() + c.valBytes
	}
}

func (c *cell) applyMap(ch *change) {
	if ch.gone || c.vals == nil {
		c.vals, c.valBytes = make(map[string]bag, len(ch.vals)), 0
	}
	for key, val := range ch.vals {
		if old, ok := c.vals[key]; ok {
			c.valBytes -= cellBytes + int64(len(key)) + old.memory()
			delete(c.vals, key)
		}
		if val.size > 0 {
			c.valBytes += cellBytes + int64(len(key)) + val.memory()
			c.vals[key] = *val
		}
	}
}
