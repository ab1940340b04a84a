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
// those that were not used lately on disk. Behind it is a Table, which holds
// whatever else a task knows of its keys, too.
//
// Values are the SDK's bytes. Bags and multimaps never look into them; ordered
// lists expect what Beam's Fn API prescribes, a varint sort key and a length
// prefixed value. Go workers of 2.77 write the bare value there: their state's
// coder must be length prefixed in the descriptor.
package state

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"trestle/internal/membudget"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
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
	return &Bundle{backend: s, spill: &s.spill, opt: s.opt, changes: make(map[cellID]*change)}
}

func (s *Batch) load(string) error { return nil }

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

// A Bundle answers a bundle's state requests. It is safe for concurrent use.
type Bundle struct {
	backend backend
	spill   *spill // nil: what is staged stays in memory
	opt     Options

	mu      sync.Mutex
	changes map[cellID]*change
	taken   int64 // bytes taken from the budget for changes
	ended   bool
}

// Get returns a page of a cell: the values of a bag, of a map key, or of an
// ordered list's range, or the keys of a multimap; and the token of the next
// page, nil at the end. The bytes are the caller's.
func (b *Bundle) Get(_ context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	t, err := b.target(key)
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return nil, nil, errEnded
	}
	if err := b.backend.load(t.key); err != nil {
		return nil, nil, err
	}
	token := req.GetContinuationToken()
	switch {
	case t.kind == bagKind:
		return b.stagedBag(t.cellID).page(b.spill, token)
	case t.kind == listKind:
		return b.stagedList(t.cellID).page(t.lo, t.hi, token, b.opt.PageBytes)
	case t.wholeMap:
		return keyPage(b.stagedKeys(t.cellID), token, b.opt.PageBytes)
	}
	return b.stagedValue(t.cellID, t.mapKey).page(b.spill, token)
}

// Append adds values to a bag, a map key or an ordered list. It copies data.
func (b *Bundle) Append(_ context.Context, key *fnpb.StateKey, data []byte) error {
	t, err := b.target(key)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return errEnded
	}
	if err := b.backend.load(t.key); err != nil {
		return err
	}
	switch {
	case t.kind == bagKind:
		return b.add(&b.changeOf(t.cellID).bag, data)
	case t.kind == listKind:
		ch := b.changeOf(t.cellID)
		more, err := ch.list.with(data)
		if err != nil {
			return fmt.Errorf("state %q of transform %q: %w", t.state, t.transform, err)
		}
		b.take(int64(len(data)) + cellBytes*int64(len(more)-len(ch.list)))
		ch.list = more
		return nil
	case t.wholeMap:
		return fmt.Errorf("state %q of transform %q: values can't be appended to all keys of a map", t.state, t.transform)
	}
	ch := b.changeOf(t.cellID)
	val := ch.vals[t.mapKey]
	if val == nil {
		val = &bag{}
		if !ch.gone {
			*val = b.backend.mapValue(t.cellID, t.mapKey).writable()
		}
		ch.vals[t.mapKey] = val
		b.take(cellBytes + int64(len(t.mapKey)))
	}
	if len(data) == 0 && val.size == 0 {
		data = padding
	}
	return b.add(val, data)
}

// padding stands for a value of a map key that takes no bytes, as those of
// Java's sets do: the key is there all the same. Java reads such a value as one
// byte.
var padding = []byte{0}

// Clear empties a bag, a map key, a whole multimap, or an ordered list's range.
func (b *Bundle) Clear(_ context.Context, key *fnpb.StateKey) error {
	t, err := b.target(key)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return errEnded
	}
	if err := b.backend.load(t.key); err != nil {
		return err
	}
	ch := b.changeOf(t.cellID)
	switch {
	case t.kind == bagKind:
		ch.bag = bag{}
	case t.kind == listKind:
		ch.list = ch.list.without(t.lo, t.hi)
	case t.wholeMap:
		ch.gone = true
		clear(ch.vals)
	default:
		ch.vals[t.mapKey] = &bag{}
	}
	return nil
}

// Commit makes what the bundle wrote part of the state.
func (b *Bundle) Commit() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return errEnded
	}
	// The backend counts what is left of it.
	if err := b.backend.apply(b.changes); err != nil {
		return fmt.Errorf("commit state: %w", err)
	}
	b.end()
	return nil
}

// Abort drops what the bundle wrote. Abort after Commit does nothing.
func (b *Bundle) Abort() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
}

// end refuses later requests: a worker that was given up may still send some.
func (b *Bundle) end() {
	b.opt.Budget.Give(b.taken)
	b.taken, b.changes, b.ended = 0, nil, true
}

func (b *Bundle) take(n int64) {
	b.opt.Budget.Take(n)
	b.taken += n
}

// add appends to a staged bag, and moves what is finished of it to disk if the
// budget is used up.
func (b *Bundle) add(to *bag, data []byte) error {
	n := int64(len(data))
	if b.opt.Budget.TryTake(n) {
		b.taken += n
	} else if b.spill == nil {
		b.take(n)
	} else {
		freed, err := to.toDisk(b.spill, b.opt.PageBytes)
		if err != nil {
			return fmt.Errorf("spill state: %w", err)
		}
		freed = min(freed, b.taken)
		b.opt.Budget.Give(freed)
		b.taken -= freed
		b.take(n)
	}
	to.append(data, b.opt.PageBytes)
	return nil
}

// changeOf returns the staged change of a cell, to be written.
func (b *Bundle) changeOf(id cellID) *change {
	ch := b.changes[id]
	if ch != nil {
		return ch
	}
	ch = &change{}
	switch id.kind {
	case bagKind:
		ch.bag = b.backend.bag(id).writable()
	case listKind:
		ch.list = slices.Clone(b.backend.list(id))
		b.take(cellBytes * int64(len(ch.list)))
	case mapKind:
		ch.vals = make(map[string]*bag)
	}
	b.changes[id] = ch
	b.take(cellBytes + int64(len(id.key)+len(id.window)))
	return ch
}

func (b *Bundle) stagedBag(id cellID) *bag {
	if ch := b.changes[id]; ch != nil {
		return &ch.bag
	}
	v := b.backend.bag(id)
	return &v
}

func (b *Bundle) stagedList(id cellID) list {
	if ch := b.changes[id]; ch != nil {
		return ch.list
	}
	return b.backend.list(id)
}

func (b *Bundle) stagedValue(id cellID, mapKey string) *bag {
	if ch := b.changes[id]; ch != nil {
		if val := ch.vals[mapKey]; val != nil {
			return val
		}
		if ch.gone {
			return &bag{}
		}
	}
	v := b.backend.mapValue(id, mapKey)
	return &v
}

// stagedKeys returns the map keys that have values, sorted.
func (b *Bundle) stagedKeys(id cellID) []string {
	var keys []string
	ch := b.changes[id]
	if ch == nil || !ch.gone {
		for _, key := range b.backend.mapKeys(id) {
			if ch == nil || ch.vals[key] == nil {
				keys = append(keys, key)
			}
		}
	}
	if ch != nil {
		for key, val := range ch.vals {
			if val.size > 0 {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

var errEnded = fmt.Errorf("state: the bundle has ended: %w", os.ErrClosed)
