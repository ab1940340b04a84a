package state

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A Bundle answers a bundle's state requests. It is safe for concurrent use.
type Bundle struct {
	backend backend
	shelf   shelf // for what memory can't hold
	opt     Options

	mu      sync.Mutex
	changes map[cellID]*change
	taken   int64  // bytes taken from the budget for changes
	loaded  string // the key that was asked for last, if any
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
	if err := b.ready(t.key); err != nil {
		return nil, nil, err
	}
	token := req.GetContinuationToken()
	switch {
	case t.kind == bagKind:
		return b.stagedBag(t.cellID).page(b.shelf, token)
	case t.kind == listKind:
		return b.stagedList(t.cellID).page(t.lo, t.hi, token, b.opt.PageBytes)
	case t.wholeMap:
		return keyPage(b.stagedKeys(t.cellID), token, b.opt.PageBytes)
	}
	return b.stagedValue(t.cellID, t.mapKey).page(b.shelf, token)
}

// Quick reports whether requests about key are answered from memory, now. They
// are about user state.
func (b *Bundle) Quick(key *fnpb.StateKey) bool {
	bag := key.GetBagUserState()
	return bag != nil && b.backend.quick(bag.GetKey())
}

// ready has what is known of a key in memory. It is an error of a worker to ask
// when the bundle has ended. The lock is held.
func (b *Bundle) ready(key string) error {
	if b.ended {
		return errEnded
	}
	// Most requests are about the key of the one before, and what isn't on disk
	// need not be looked for again.
	if key == b.loaded && key != "" {
		return nil
	}
	err := b.backend.load(key)
	if err == nil {
		b.loaded = key
	}
	return err
}

// Append adds values to a bag, a map key or an ordered list. It copies data.
func (b *Bundle) Append(_ context.Context, key *fnpb.StateKey, data []byte) error {
	t, err := b.target(key)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(t.key); err != nil {
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
	if err := b.ready(t.key); err != nil {
		return err
	}
	ch := b.changeOf(t.cellID)
	switch {
	case t.kind == bagKind:
		err = b.forget(&ch.bag)
	case t.kind == listKind:
		ch.list = ch.list.without(t.lo, t.hi)
	case t.wholeMap:
		ch.gone = true
		err = b.forgetAll(ch.vals)
		clear(ch.vals)
	default:
		if val := ch.vals[t.mapKey]; val != nil {
			err = b.forget(val)
		}
		ch.vals[t.mapKey] = &bag{}
	}
	return err
}

// forget empties a staged bag.
func (b *Bundle) forget(v *bag) error {
	err := v.drop(v.base, b.shelf)
	*v = bag{}
	return err
}

func (b *Bundle) forgetAll(vals map[string]*bag) error {
	for _, v := range vals {
		if err := b.forget(v); err != nil {
			return err
		}
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
	for _, ch := range b.changes {
		// What an error leaves there goes when the state is closed.
		_ = b.forget(&ch.bag)
		_ = b.forgetAll(ch.vals)
	}
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
	} else {
		freed, err := to.toDisk(b.shelf, b.opt.PageBytes)
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
