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
// A Grouper promises that each element added comes out once, whatever was
// spilled; the order of keys, and that of the values of one key, is arbitrary.
// It keeps about Config.Memory bytes.
//
// Triggers, panes and late data of unbounded input are left to packages window
// and trigger.
package group

import (
	"context"

	"trestle/coders"
	"trestle/internal/membudget"
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
	// fields up to StateBacked have no meaning then.
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
	// Dir is where runs go. Files are unlinked as soon as they are open, so
	// that nothing is left behind.
	Dir string
}

// A Grouper groups one task's input: Add all of it, Finish once, then Next
// until io.EOF, and Close in any case. One goroutine uses it, but its Large may
// be used by others meanwhile.
//
// g.Add(chunk []byte) error
//
//	takes whole windowed values. It keeps no reference to chunk.
//
// g.Finish(ctx context.Context) error
//
//	ends the input. It merges runs that are too many to be read at once.
//
// g.Next(dst []byte) (out []byte, count int, err error)
//
//	appends the next group to dst: one windowed kv<K, iterable<V>> element, count 1
//	(or the elements of one key as they came, count of them, when Keyed).
//	A large group that isn't state-backed, or a large key when Keyed, comes in
//	pieces of about 1 MiB: g.More() is true until its last piece; count is 0 for
//	the pieces of one element that is not at its end. io.EOF, with nothing
//	appended, at the end.
//
// g.More() bool
//
//	tells whether the next Next goes on with the same element or key. A bundle
//	may not end there.
//
// g.Large() *Large
// g.Close()
//
//	frees everything but what Large still holds; see Large.Close.
//
// A Large serves the tails of large groups to state requests (StateKey.Runner's key is the token).
//
// l.Get(token, continuation []byte) (page, next []byte, err error)
//
//	gives whole encoded values; next is nil at the end. Safe for concurrent use.
//
// l.Mark() uint64
//
//	how many tails were made so far: note it before and after a bundle's input is taken from Next;
//
// l.Release(from, to uint64)
//
//	frees the tails made between two marks, when the bundle is committed.
//
// l.Close()
//
//	frees all.
type Grouper struct{ cfg Config }

var _ = context.Background
