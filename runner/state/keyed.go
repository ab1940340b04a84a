package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"

	"trestle/element"
)

// Keyed is the state of all keys of a task, as unbounded input needs it: what
// memory can't hold is in a Store, by whole keys. It is safe for concurrent
// use, but two bundles that are under way at once must not write one key.
type Keyed struct {
	opt Options

	mu    sync.Mutex
	table *Table[*keyCells]
	shelf *treeShelf
	names map[string]string // transforms, states and windows, each once
}

// NewKeyed returns a state without cells. group is the key group of a key as
// state requests have it. Close it to free what it holds.
func NewKeyed(opt Options, store *Store, group func(key []byte) uint16) *Keyed {
	if opt.PageBytes == 0 {
		opt.PageBytes = defaultPageBytes
	}
	s := &Keyed{opt: opt, names: map[string]string{}}
	s.table = NewTable(store, Pager[*keyCells](keyedPager{s}), TableOptions{Group: group})
	s.shelf = &treeShelf{store: store, prefix: append(slices.Clip(s.table.prefix), 's')}
	return s
}

// Bundle begins a bundle; end it with Commit or Abort.
func (s *Keyed) Bundle() *Bundle {
	return &Bundle{backend: s, shelf: s.shelf, opt: s.opt, changes: make(map[cellID]*change)}
}

// Trim puts on disk what memory can't hold. No bundle may be under way.
func (s *Keyed) Trim() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Trim()
}

// Drop forgets what a key has in a window: the window has expired. No bundle
// may be under way.
func (s *Keyed) Drop(window, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok, err := s.table.Get([]byte(key))
	if err != nil || !ok {
		return err
	}
	k.cells = slices.DeleteFunc(k.cells, func(c namedCell) bool {
		if c.name.window != window {
			return false
		}
		err = errors.Join(err, s.replaced(c.cell, c.name.kind, &change{gone: true}))
		k.bytes -= c.bytes()
		return true
	})
	return errors.Join(err, s.resize(k))
}

// resize counts what a key has after a change.
func (s *Keyed) resize(k *keyCells) error {
	if len(k.cells) == 0 {
		return s.table.Remove(k)
	}
	s.table.Resize(k, k.bytes)
	return nil
}

// Close forgets all state.
func (s *Keyed) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Close()
}

// keyCells are the cells of one key.
type keyCells struct {
	Entry
	cells []namedCell // in the order of names
	bytes int64
}

// A cellName names one of a key's cells.
type cellName struct {
	window, transform, state string
	kind                     kind
}

func (n cellName) compare(m cellName) int {
	return cmp.Or(cmp.Compare(n.window, m.window), cmp.Compare(n.transform, m.transform),
		cmp.Compare(n.state, m.state), cmp.Compare(n.kind, m.kind))
}

func nameOf(id cellID) cellName { return cellName{id.window, id.transform, id.state, id.kind} }

type namedCell struct {
	name cellName
	cell *cell
}

// namedBytes is what a cell costs besides what the cell itself counts.
const namedBytes = 224

func (c namedCell) bytes() int64 { return namedBytes + c.cell.bytes }

func (k *keyCells) find(n cellName) (int, bool) {
	return slices.BinarySearchFunc(k.cells, n, func(c namedCell, n cellName) int { return c.name.compare(n) })
}

// load makes sure that a key's cells are in memory: there they stay until Trim.
func (s *Keyed) load(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, err := s.table.Get([]byte(key))
	return err
}

// quick is false where there are bags with parts on disk.
func (s *Keyed) quick(key []byte) bool {
	if s.shelf.last.Load() > 0 || !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if s.table.disk == 0 {
		return true
	}
	_, here := s.table.Part(key)
	return here
}

// cell is a cell that load has brought, or nil. (s.mu is held.)
func (s *Keyed) cell(id cellID) *cell {
	k, ok := s.table.Part([]byte(id.key)) // keys here have no parts: all or nothing is in memory
	if !ok {
		return nil
	}
	i, ok := k.find(nameOf(id))
	if !ok {
		return nil
	}
	return k.cells[i].cell
}

func (s *Keyed) bag(id cellID) bag {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cell(id); c != nil {
		return c.bag
	}
	return bag{}
}

func (s *Keyed) list(id cellID) list {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cell(id); c != nil {
		return c.list
	}
	return nil
}

func (s *Keyed) mapValue(id cellID, mapKey string) bag {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cell(id); c != nil {
		return c.vals[mapKey]
	}
	return bag{}
}

func (s *Keyed) mapKeys(id cellID) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cell(id); c != nil {
		return slices.Collect(maps.Keys(c.vals))
	}
	return nil
}

func (s *Keyed) apply(changes map[cellID]*change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, ch := range changes {
		k, ok := s.table.Part([]byte(id.key)) // it was loaded for its change
		if !ok {
			k = &keyCells{}
			s.table.Add(id.key, k, 0)
		}
		if err := s.applyTo(k, id, ch); err != nil {
			return err
		}
	}
	return nil
}

func (s *Keyed) applyTo(k *keyCells, id cellID, ch *change) error {
	name := nameOf(id)
	i, ok := k.find(name)
	if !ok {
		name = cellName{s.intern(name.window), s.intern(name.transform), s.intern(name.state), name.kind}
		k.cells = slices.Insert(k.cells, i, namedCell{name, &cell{}})
		k.bytes += namedBytes
	}
	c := k.cells[i].cell
	if err := s.replaced(c, id.kind, ch); err != nil {
		return err
	}
	k.bytes -= c.bytes
	if err := s.outOfMemory(ch); err != nil {
		return err
	}
	c.apply(id, ch)
	k.bytes += c.bytes
	if c.empty() {
		k.bytes -= namedBytes
		k.cells = slices.Delete(k.cells, i, i+1)
	}
	return s.resize(k)
}

// replaced takes off the shelf what a change leaves of a cell to nobody.
func (s *Keyed) replaced(c *cell, k kind, ch *change) error {
	if k == bagKind && ch.bag.base == 0 {
		return c.bag.drop(0, s.shelf)
	}
	for key, val := range c.vals {
		if now := ch.vals[key]; now != nil && now.base > 0 || now == nil && !ch.gone {
			continue
		}
		if err := val.drop(0, s.shelf); err != nil {
			return err
		}
	}
	return nil
}

// outOfMemory puts on the shelf what of large bags won't change any more.
func (s *Keyed) outOfMemory(ch *change) error {
	if err := ch.bag.fullToDisk(s.shelf); err != nil {
		return err
	}
	for _, val := range ch.vals {
		if err := val.fullToDisk(s.shelf); err != nil {
			return err
		}
	}
	return nil
}

// mostNames bounds the names that are kept to be used again.
const mostNames = 4096

// intern gives one string for all that are equal.
func (s *Keyed) intern(name string) string {
	if known, ok := s.names[name]; ok {
		return known
	}
	if len(s.names) >= mostNames {
		clear(s.names) // windows come and go
	}
	s.names[name] = name
	return name
}

// keyedPager makes records of keys: their cells, one after another.
type keyedPager struct{ s *Keyed }

func (p keyedPager) Leave(dst []byte, k *keyCells, _ []element.Timestamp) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(k.cells)))
	for _, c := range k.cells {
		dst = append(dst, byte(c.name.kind))
		for _, part := range []string{c.name.window, c.name.transform, c.name.state} {
			dst = appendString(dst, part)
		}
		switch c.name.kind {
		case bagKind:
			dst = c.cell.bag.appendTo(dst)
		case listKind:
			n := 0
			for _, e := range c.cell.list {
				n += len(e.enc)
			}
			dst = binary.AppendUvarint(dst, uint64(n))
			for _, e := range c.cell.list {
				dst = append(dst, e.enc...)
			}
		case mapKind:
			dst = binary.AppendUvarint(dst, uint64(len(c.cell.vals)))
			for key, val := range c.cell.vals {
				dst = val.appendTo(appendString(dst, key))
			}
		}
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// appendTo encodes a bag: of what is on a shelf, where.
func (b *bag) appendTo(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b.segs)))
	for i := range b.segs {
		seg := &b.segs[i]
		if !seg.disk {
			dst = append(binary.AppendUvarint(dst, uint64(seg.size)<<1), seg.mem...)
			continue
		}
		dst = binary.AppendVarint(binary.AppendUvarint(dst, uint64(seg.size)<<1|1), seg.off)
		dst = binary.AppendUvarint(dst, uint64(seg.sum))
	}
	return dst
}

func (p keyedPager) Enter(key string, record []byte) (*keyCells, int64, error) {
	r := ReadRecord(record)
	n := r.Count()
	k := &keyCells{cells: make([]namedCell, 0, n)}
	for ; n > 0 && !r.Bad(); n-- {
		name := cellName{kind: kind(r.Byte())}
		name.window, name.transform, name.state = p.name(r), p.name(r), p.name(r)
		c := &cell{}
		ch := &change{}
		switch name.kind {
		case bagKind:
			ch.bag = r.bag()
		case listKind:
			l, err := list(nil).with(r.Bytes())
			if err != nil {
				return nil, 0, err
			}
			ch.list = l
		case mapKind:
			ch.vals = map[string]*bag{}
			for m := r.Count(); m > 0 && !r.Bad(); m-- {
				mapKey := string(r.Bytes())
				b := r.bag()
				ch.vals[mapKey] = &b
			}
		default:
			return nil, 0, errRecord
		}
		c.apply(cellID{kind: name.kind, key: key, window: name.window}, ch)
		k.cells = append(k.cells, namedCell{name, c})
		k.bytes += k.cells[len(k.cells)-1].bytes()
	}
	if r.Bad() || len(r.Rest()) > 0 {
		return nil, 0, errRecord
	}
	return k, k.bytes, nil
}

func (p keyedPager) name(r *RecordReader) string {
	b := r.Bytes()
	if known, ok := p.s.names[string(b)]; ok {
		return known
	}
	return p.s.intern(string(b))
}
