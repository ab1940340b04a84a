package runner

import (
	"context"
	"iter"

	"trestle/raftmeta/catalog"
)

// A Journal remembers decisions, in order.
type Journal interface {
	// Replay calls fold for every record there is, in order, and stops at the
	// first error. It is called once, before the first Append.
	Replay(ctx context.Context, fold func(catalog.Record) error) error
	// Append returns once the records will survive the loss of this process.
	// After an error they may or may not survive, as a prefix, and no more can
	// be appended. Calls may overlap; the Dispatcher's don't.
	Append(ctx context.Context, records ...catalog.Record) error
	// Compact may replace all records by those of the snapshot, which fold to
	// the same state, if the journal has grown large. It is called between
	// Appends, often, and must be cheap when there is nothing to do.
	Compact(ctx context.Context, snapshot func() iter.Seq[catalog.Record]) error
}
