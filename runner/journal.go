package runner

import (
	"context"

	"trestle/raftmeta/catalog"
)

// A Journal remembers decisions, in order.
type Journal interface {
	// Replay calls fold for every record there is, in order, and stops at the
	// first error. It is called once, before the first Append.
	Replay(ctx context.Context, fold func(catalog.Record) error) error
	// Append returns once the records will survive the loss of this process, and
	// the Board has been told of them. After an error they may or may not
	// survive, and no more can be appended. Calls may overlap; the Dispatcher's
	// don't.
	Append(ctx context.Context, records ...catalog.Record) error
}
