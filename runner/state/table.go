package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"trestle/element"

	"github.com/cockroachdb/pebble/v2"
)

// A Table is what a task knows of its keys: those that were asked for lately
// in memory, as they are, and beyond the budget the others in a Store, as
// records in the order of their key groups. What a key on disk waits for is in
// calendars, so that nobody has to look at all keys because time has moved.
//
// Nothing leaves memory but in Trim, which its owner calls where it holds on to
// nothing that the table gave it. A Table is not safe for concurrent use.
type Table[V Kept] struct {
	store  *Store
	pager  Pager[V]
	opt    TableOptions
	prefix []byte

	young, old map[string]V // old: not asked for since the last turn
	disk       int          // keys that are in the store alone; those in parts count as often
	calendars  []calendar
	last       int    // of disk, those that wait for Last
	lastWoken  []byte // the name behind the last of these that was woken
	held       int64  // bytes in memory
	taken      int64  // of them, from the budget

	pending *pebble.Batch       // not yet written
	dead    map[string]struct{} // removed by pending
	times   []element.Timestamp
	buf     []byte
	name    []byte // of a record, or of a date
}

// TableOptions tell what is special about a table.
type TableOptions struct {
	// Group is the key group of a key.
	Group func(key []byte) uint16
	// Calendars is for how many kinds of times keys wait, mostCalendars at most.
	Calendars int
	// Last is a time of the first calendar for which so many keys wait that they
	// are found by a look at all of them, then; 0: there is none.
	Last element.Timestamp
}

const mostCalendars = 4

// An Entry is the table's part of what it keeps, to be embedded.
type Entry struct {
	key    string
	bytes  int64
	group  uint16
	stored bool // there is a record of it, of now or of once
	here   bool // it is in memory, and in its table
	part   bool // there may be a record of it that is not in it
	dated  byte // a bit for each calendar that has it, at the time of dates
	dates  [mostCalendars]element.Timestamp
}

// Key is the key under which the table knows it.
func (e *Entry) Key() string { return e.key }

func (e *Entry) entry() *Entry { return e }

// Kept is a pointer to what embeds an Entry.
type Kept interface{ entry() *Entry }

// A Pager takes what a Table keeps out of memory and into it again.
type Pager[V Kept] interface {
	// Leave appends a record of v, which leaves memory, to dst. It sets in times
	// when v waits to be back, by calendar; all of them are +inf: never.
	Leave(dst []byte, v V, times []element.Timestamp) []byte
	// Enter makes v again, and tells its size; it keeps no reference to record.
	Enter(key string, record []byte) (v V, bytes int64, err error)
}

const (
	// entryBytes is about what a key costs in a table besides its own bytes and
	// those of what is kept.
	entryBytes = 112
	// leastTable is how much a table may have in memory whatever else is there, or
	// a small part of a small budget.
	leastTable = 1 << 20
	// mostPending is how much is written to the tree at once.
	mostPending = 512 << 10
	// coarse is from where on memory is counted in the budget.
	coarse = 64 << 10
)

// NewTable returns a table without keys. Close gives back what it has.
func NewTable[V Kept](store *Store, pager Pager[V], opt TableOptions) *Table[V] {
	t := &Table[V]{
		store: store, pager: pager, opt: opt,
		prefix: binary.BigEndian.AppendUint64(nil, store.number()),
		young:  map[string]V{}, old: map[string]V{}, dead: map[string]struct{}{},
		calendars: make([]calendar, opt.Calendars), times: make([]element.Timestamp, opt.Calendars),
	}
	for i := range t.calendars {
		t.calendars[i].prefix = append(slices.Clip(t.prefix), 't', byte(i))
	}
	return t
}

// Len is the number of keys, in memory and on disk.
func (t *Table[V]) Len() int { return len(t.young) + len(t.old) + t.disk }

// Get gives what is kept under a key, if anything.
func (t *Table[V]) Get(key []byte) (v V, ok bool, err error) {
	if v, ok = t.Part(key); ok {
		v, err = t.Whole(v)
		return v, err == nil, err
	}
	if t.disk == 0 {
		return v, false, nil
	}
	if _, gone := t.dead[string(key)]; gone {
		return v, false, nil
	}
	return t.fetch(key)
}

// record is a key's record on disk, to be closed; nil if there is none.
func (t *Table[V]) record(group uint16, key string) ([]byte, io.Closer, error) {
	db, err := t.store.tree()
	if err != nil {
		return nil, nil, err
	}
	record, closer, err := db.Get(t.recordName(group, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read state from disk: %w", err)
	}
	return record, closer, nil
}

// fetch brings a key back from disk.
func (t *Table[V]) fetch(key []byte) (v V, ok bool, err error) {
	group := t.opt.Group(key)
	record, closer, err := t.record(group, string(key))
	if record == nil {
		return v, false, err
	}
	v, err = t.enter(group, string(key), record)
	if closed := closer.Close(); err == nil {
		err = closed
	}
	return v, err == nil, err
}

var errRecord = errors.New("a record of state on disk is malformed")

// Add keeps v, of so many bytes, under a key that Get doesn't find.
func (t *Table[V]) Add(key string, v V, bytes int64) {
	_, stored := t.dead[key]
	*v.entry() = Entry{key: key, group: t.opt.Group([]byte(key)), stored: stored, here: true}
	t.young[key] = v
	t.Resize(v, bytes)
}

// Remove forgets v, if it wasn't removed before. Of what is a part nothing but
// that is forgotten.
func (t *Table[V]) Remove(v V) error {
	e := v.entry()
	if !e.here {
		return nil
	}
	t.forget(e)
	if !e.stored {
		return nil
	}
	for i := range t.calendars {
		if err := t.date(i, e, element.MaxTimestamp); err != nil {
			return err
		}
	}
	b, err := t.batch()
	if err != nil {
		return err
	}
	t.dead[e.key] = struct{}{}
	return b.Delete(t.recordName(e.group, e.key), nil)
}

// Resize tells how many bytes v has now. What was removed has none.
func (t *Table[V]) Resize(v V, bytes int64) {
	e := v.entry()
	if !e.here {
		return
	}
	bytes += entryBytes + 2*int64(len(e.key))
	t.grow(bytes - e.bytes)
	e.bytes = bytes
}

func (t *Table[V]) grow(bytes int64) {
	t.held += bytes
	if d := t.held - t.taken; d > coarse || d < -coarse {
		t.store.budget.Take(d)
		t.taken = t.held
	}
}

// Trim puts keys on disk if memory is wanted, those first that were not asked
// for lately. Nobody may hold on to what the table gave.
func (t *Table[V]) Trim() error {
	t.store.budget.Take(t.held - t.taken)
	t.taken = t.held
	least := min(leastTable, t.store.budget.Limit()/64)
	for range 2 {
		if t.held <= least || !t.store.tight() {
			break
		}
		if err := t.turn(); err != nil {
			return fmt.Errorf("write state to disk: %w", err)
		}
	}
	if t.pending != nil && t.pending.Len() > mostPending {
		return t.commit()
	}
	return nil
}

// turn puts the old keys on disk; the young ones are the old ones then.
func (t *Table[V]) turn() error {
	if len(t.old) > 0 {
		if err := t.leave(); err != nil {
			return err
		}
	}
	t.old, t.young = t.young, map[string]V{}
	return nil
}

// leave writes the old keys in their order on disk: neighbours are read
// together, too.
func (t *Table[V]) leave() error {
	all := make([]V, 0, len(t.old))
	for _, v := range t.old {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b V) int {
		x, y := a.entry(), b.entry()
		if x.group != y.group {
			return cmp.Compare(x.group, y.group)
		}
		return cmp.Compare(x.key, y.key)
	})
	var wrote int64
	for i, v := range all {
		n, err := t.put(v)
		if err != nil {
			return err
		}
		wrote += n
		var none V
		all[i] = none // it may be collected
	}
	t.store.budget.Spilled(wrote)
	return t.commit()
}

// put writes one key.
func (t *Table[V]) put(v V) (wrote int64, err error) {
	e := v.entry()
	for i := range t.times {
		t.times[i] = element.MaxTimestamp
	}
	const room = 4 // for the record's length, in front
	t.buf = t.pager.Leave(append(t.buf[:0], 0, 0, 0, 0), v, t.times)
	last := t.opt.Last != 0 && t.times[0] == t.opt.Last
	if last {
		t.times[0] = element.MaxTimestamp
		t.last++
	}
	for i, at := range t.times {
		if err := t.date(i, e, at); err != nil {
			return 0, err
		}
	}
	t.buf = t.appendDates(t.buf, e, last)
	binary.BigEndian.PutUint32(t.buf, uint32(len(t.buf)-room))
	b, err := t.batch()
	if err != nil {
		return 0, err
	}
	write := b.Set
	if e.part {
		write = b.Merge // behind what is there
	}
	if err := write(t.recordName(e.group, e.key), t.buf, nil); err != nil {
		return 0, err
	}
	delete(t.dead, e.key)
	delete(t.old, e.key)
	e.here = false
	t.grow(-e.bytes)
	t.disk++
	wrote = int64(len(t.buf))
	if cap(t.buf) > mostPending {
		t.buf = nil
	}
	if b.Len() > mostPending {
		err = t.commit()
	}
	return wrote, err
}

// recordName is where a key's record is: behind each other by key group, so
// that those of some groups can be copied or dropped as a whole. It is good
// until the next name is made.
func (t *Table[V]) recordName(group uint16, key string) []byte {
	t.name = append(append(t.name[:0], t.prefix...), 'k')
	t.name = append(binary.BigEndian.AppendUint16(t.name, group), key...)
	return t.name
}

// batch is what is to be written next.
func (t *Table[V]) batch() (*pebble.Batch, error) {
	if t.pending == nil {
		db, err := t.store.tree()
		if err != nil {
			return nil, err
		}
		t.pending = db.NewBatch()
	}
	return t.pending, nil
}

// commit writes what is pending.
func (t *Table[V]) commit() error {
	b := t.pending
	t.pending = nil
	clear(t.dead)
	if b == nil {
		return nil
	}
	err := b.Commit(pebble.NoSync)
	if closed := b.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write state to disk: %w", err)
	}
	return nil
}

// Close forgets all keys.
func (t *Table[V]) Close() error {
	t.store.budget.Give(t.taken)
	t.held, t.taken = 0, 0
	t.young, t.old = nil, nil
	if t.pending != nil {
		_ = t.pending.Close() // nobody wants what it would write
		t.pending = nil
	}
	if t.bareDisk() {
		return nil
	}
	db, err := t.store.tree()
	if err != nil {
		return err
	}
	if err := db.DeleteRange(t.prefix, after(t.prefix), pebble.NoSync); err != nil {
		return fmt.Errorf("drop state on disk: %w", err)
	}
	return nil
}

// bareDisk reports whether nothing was ever written.
func (t *Table[V]) bareDisk() bool {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.store.db == nil
}
