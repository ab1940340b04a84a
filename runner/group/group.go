// Package group groups bounded input by key and window.
//
// A Grouper is fed the elements of one task, in any order, and then gives them
// back key by key: as elements of a GroupByKey, key and iterable of values per
// key and window, with Beam's default trigger on bounded input (one on-time
// pane that is the only one); or, for a stage with user state, as they came,
// but all elements of one key one after another.
//
// Groups are collected in a hash table whose keys and values lie in pooled
// chunks and know each other by offsets, so that nothing is allocated per
// element and the garbage collector sees no pointer. When the budget is used
// up, the table goes to disk as a run sorted by hash and key, and a later merge
// of the runs gives the groups; the values of a key may then be more than
// memory holds. Values that are too many to send at once are left in a file
// that the worker asks for by pages, over the state API, as often as it likes
// (Large).
//
// A Grouper promises that each element added comes out once for each of its
// windows, whatever was spilled. The order of keys is arbitrary; the values of one key and window
// keep the order in which they were added, but for those of sessions, which
// come by the start of their windows. It keeps about Config.Memory bytes.
//
// Triggers, panes and late data of unbounded input are left to packages window
// and trigger.
package group

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/invariant"
	"trestle/internal/membudget"

	"github.com/cespare/xxhash/v2"
)

// A Combiner says which timestamp a group gets.
type Combiner int

// Beam's timestamp combiners.
const (
	EndOfWindow Combiner = iota
	Earliest             // of the group's elements
	Latest
)

// A Config says what is grouped and with how much memory.
type Config struct {
	// Input cuts the elements, which are of a kv coder.
	Input *coders.Windowed
	// Keyed groups by key alone and gives the elements back as they came. The
	// fields from here to LargeBytes have no meaning then.
	Keyed bool
	// Merging says that windows are interval windows, and those of one key that
	// overlap become one (sessions).
	Merging bool
	// Timestamp is that of the groups.
	Timestamp Combiner
	// StateBacked says that the worker reads a group's tail over the state API
	// (its coder is state_backed_iterable, or its SDK reads both alike).
	// Otherwise a large group is one long element, given piece by piece.
	StateBacked bool
	// LargeBytes is how many bytes of values make a group large; 0 means 4 MiB.
	LargeBytes int64

	// Budget counts what the Grouper holds.
	Budget *membudget.Budget
	// Memory is what it may hold at most, if the budget has so much; 0 means
	// half of the budget.
	Memory int64
	// Dir is where runs and tails go. Files are unlinked as soon as they are
	// open, so that nothing is left behind.
	Dir string
}

const (
	defaultLarge = 4 << 20
	// pieceBytes is about how much of one key or element is given at once.
	pieceBytes = 1 << 20
	// longest is the greatest length of a key or a value.
	longest = 1 << 31
)

// A Grouper groups one task's input: Add all of it, Finish once, then Next
// until io.EOF, and Close in any case. One goroutine uses it; its Large may be
// used by others meanwhile.
type Grouper struct {
	cfg   Config
	table *table // empty once there are runs and Finish was called
	runs  []run
	file  *spillFile // of the runs; nil while there is none
	large *Large
	feed  feed // after Finish

	value   coders.Value // of Add
	entries [ahead]entry // pending ones alias the chunk that is being added
	pending int
	touched uint32   // keeps the compiler from leaving touch out
	scratch []byte   // values of a session, or of several spans
	window  []byte   // of a session
	items   []uint32 // of a key whose windows merge
	build   builder
	held    piece // taken from the feed and not given yet
	holding bool
	inline  *tail // what is to follow of the element that was begun
	page    int   // of inline, the next one
}

// New returns an empty Grouper.
func New(cfg Config) *Grouper {
	if cfg.LargeBytes == 0 {
		cfg.LargeBytes = defaultLarge
	}
	if cfg.Memory == 0 {
		cfg.Memory = cfg.Budget.Limit() / 2
	}
	cfg.Merging = cfg.Merging && !cfg.Keyed
	g := &Grouper{
		cfg:   cfg,
		table: newTable(cfg.Budget, cfg.Memory, cfg.Timestamp),
		large: newLarge(cfg.Budget, cfg.Dir),
	}
	g.build.g = g
	return g
}

// Large serves the tails of the groups that Next gives.
func (g *Grouper) Large() *Large { return g.large }

// Add takes whole windowed values. It keeps no reference to chunk. An error is
// that of a malformed chunk or of a disk, and ends the grouping.
func (g *Grouper) Add(chunk []byte) error {
	v := &g.value
	for at := chunk; len(at) > 0; {
		rest, err := g.cfg.Input.Next(at, v)
		if err != nil {
			return fmt.Errorf("group: element at byte %d of its chunk: %w", len(chunk)-len(at), err)
		}
		if len(v.Raw) > longest {
			return fmt.Errorf("group: an element has %d bytes; at most %d are possible", len(v.Raw), longest)
		}
		if err := g.addValue(v); err != nil {
			return err
		}
		at = rest
	}
	return g.flush()
}

// addValue adds one element, to each of its windows' groups.
func (g *Grouper) addValue(v *coders.Value) error {
	key := v.Key()
	hash := xxhash.Sum64(key)
	switch {
	case g.cfg.Keyed:
		return g.add(entry{hash: spread(hash), key: key, value: v.Raw})
	case g.cfg.Merging:
		return g.addItems(v, spread(hash))
	}
	e := entry{hash: spread(hash), key: key, value: v.KVValue(), ts: int64(v.Timestamp())}
	if len(v.Windows) == 0 && v.NumWindows == 1 { // the global window
		return g.add(e)
	}
	windows := v.Windows
	for range v.NumWindows {
		var err error
		if e.window, windows, err = g.cfg.Input.CutWindow(windows); err != nil {
			return fmt.Errorf("group: window of an element: %w", err)
		}
		e.hash = spread(hash + xxhash.Sum64(e.window))
		if err := g.add(e); err != nil {
			return err
		}
	}
	return nil
}

// addItems adds a value once for each of its windows to the group of its key.
func (g *Grouper) addItems(v *coders.Value, hash uint64) error {
	windows := v.Windows
	for range v.NumWindows {
		w, n, err := coders.DecodeInterval(windows)
		if err != nil {
			return fmt.Errorf("group: window of an element: %w", err)
		}
		room, err := g.room(&entry{hash: hash, key: v.Key()}, itemSize(len(v.KVValue())))
		if err != nil {
			return err
		}
		putItem(room, w, v.Timestamp(), v.KVValue())
		windows = windows[n:]
	}
	return nil
}

// An entry is a value on its way into the table.
type entry struct {
	hash               uint64
	ts                 int64
	window, key, value []byte
}

// ahead is how many entries are looked up at once. Each look-up waits for
// memory some times, one after another; many of them wait at the same time.
const ahead = 64

// add puts an entry into the table, now or with the next ones.
func (g *Grouper) add(e entry) error {
	g.entries[g.pending] = e
	if g.pending++; g.pending == ahead {
		return g.flush()
	}
	return nil
}

// flush puts the pending entries into the table.
func (g *Grouper) flush() error {
	entries := g.entries[:g.pending]
	g.pending = 0
	g.touched += g.table.touch(entries)
	for i := range entries {
		e := &entries[i]
		room, err := g.room(e, len(e.value))
		if err != nil {
			return err
		}
		copy(room, e.value)
	}
	return nil
}

// spread makes a hash whose top bits depend on all of h. Those of h itself may
// be what the writers chose the sub-partition by, thus all alike here.
func spread(h uint64) uint64 {
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>32
}

// room makes room for n bytes in the group of e, spilling the table if it is
// full.
func (g *Grouper) room(e *entry, n int) ([]byte, error) {
	room, ok := g.table.put(e, n)
	if ok {
		return room, nil
	}
	if err := g.spill(); err != nil {
		return nil, err
	}
	g.table.force = true
	room, ok = g.table.put(e, n)
	g.table.force = false
	invariant.Check(ok, "an empty table has no room for %d bytes", n)
	return room, nil
}

// Finish ends the input. It merges runs that are too many to be read at once.
func (g *Grouper) Finish(ctx context.Context) error {
	invariant.Check(g.feed == nil, "a Grouper is finished twice")
	if len(g.runs) == 0 {
		g.feed = newWalk(g.table, g.cfg.Merging)
		return nil
	}
	if err := g.spill(); err != nil {
		return err
	}
	g.table.free()
	var err error
	g.runs, g.file, err = reduce(ctx, g.cfg.Budget, g.runs, g.file, g.cfg.Dir, fanIn(g.cfg.Memory))
	if err != nil {
		return fmt.Errorf("group: %w", err)
	}
	m, err := newMerge(g.cfg.Budget, g.runs)
	if err != nil {
		return fmt.Errorf("group: %w", err)
	}
	g.feed = &mergeFeed{m: m}
	return nil
}

// Next appends the next group to dst: one windowed kv<K, iterable<V>> element,
// and the count is 1; or, when Keyed, the elements of one key, and the count is
// theirs. A large group that isn't state-backed, and a large key when Keyed,
// comes in pieces of about 1 MiB (More); the count is 0 for the pieces of an
// element that isn't complete with them. At the end it returns io.EOF and
// appends nothing.
func (g *Grouper) Next(dst []byte) (out []byte, count int, err error) {
	switch {
	case g.inline != nil:
		out, count, err = g.nextPage(dst)
	case g.cfg.Keyed:
		out, count, err = g.nextKeyed(dst)
	case g.cfg.Merging:
		out, count, err = g.nextSession(dst)
	default:
		out, count, err = g.nextGroup(dst)
	}
	if err != nil && err != io.EOF {
		g.build.abandon()
		err = fmt.Errorf("group: %w", err)
	}
	return out, count, err
}

// More reports whether the next Next goes on with the element or the key that
// the last one gave. A bundle can't end there.
func (g *Grouper) More() bool { return g.inline != nil || g.cfg.Keyed && g.holding }

// endOr is err, or the end of all groups.
func endOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// first gives the held piece, or the first of the next group.
func (g *Grouper) first() (piece, bool, error) {
	if g.holding {
		g.holding = false
		return g.held, true, nil
	}
	ok, err := g.feed.group()
	if err != nil || !ok {
		return piece{}, false, err
	}
	return g.feed.values()
}

// nextGroup appends one group whose window is fixed.
func (g *Grouper) nextGroup(dst []byte) (out []byte, count int, err error) {
	p, ok, err := g.first()
	if err != nil || !ok {
		return dst, 0, endOr(err)
	}
	window, key := g.feed.windowKey()
	ts := element.Timestamp(p.ts)
	if g.cfg.Timestamp == EndOfWindow {
		if ts, err = g.cfg.Input.MaxTimestamp(window); err != nil {
			return dst, 0, fmt.Errorf("window %x: %w", window, err)
		}
	}
	begin := len(dst)
	b := &g.build
	b.start(append(coders.AppendHeader(dst, ts, 1, window, coders.OnlyFiring), key...))
	least := p.ts
	for ok {
		least = g.cfg.Timestamp.combine(least, p.ts)
		if err := b.add(p.values, p.count); err != nil {
			return dst, 0, err
		}
		if p, ok, err = g.feed.values(); err != nil {
			return dst, 0, err
		}
	}
	tail, err := b.end()
	if err != nil {
		return dst, 0, err
	}
	out = b.dst
	if g.cfg.Timestamp != EndOfWindow {
		stamp(out[begin:], least)
	}
	if tail != nil {
		g.inline, g.page = tail, 0
		return out, 0, nil
	}
	return out, 1, nil
}

// stamp overwrites the timestamp of an element.
func stamp(elem []byte, ts int64) {
	coders.AppendTimestamp(elem[:0], element.Timestamp(ts))
}

// nextKeyed appends elements of one key.
func (g *Grouper) nextKeyed(dst []byte) (out []byte, count int, err error) {
	p, ok, err := g.first()
	if err != nil || !ok {
		return dst, 0, endOr(err)
	}
	out = dst
	for {
		out = append(out, p.values...)
		count += p.count
		if p, ok, err = g.feed.values(); err != nil || !ok {
			return out, count, err
		}
		if len(out)-len(dst) >= pieceBytes {
			g.held, g.holding = p, true
			return out, count, nil
		}
	}
}

// nextPage appends a page of an element that is given piece by piece.
func (g *Grouper) nextPage(dst []byte) (out []byte, count int, err error) {
	t := g.inline
	out = binary.AppendUvarint(dst, uint64(t.pages[g.page].count))
	if out, err = t.read(out, g.page); err != nil {
		return dst, 0, err
	}
	if g.page++; g.page < len(t.pages) {
		return out, 0, nil
	}
	t.close()
	g.inline = nil
	return append(out, endOfChunks), 1, nil
}

// Close frees everything but what Large still holds.
func (g *Grouper) Close() {
	if g.feed != nil {
		g.feed.close()
	}
	g.build.abandon()
	if g.inline != nil {
		g.inline.close()
		g.inline = nil
	}
	g.table.free()
	g.file.close()
	g.file, g.runs = nil, nil
}
