package bundle

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"trestle/fnapi"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A guard hands a bundle's state requests on and remembers if one failed because
// our own machine did, such as by a full disk. All that the worker hears is a
// refusal: its user's code raises, and would be blamed, or may even go on.
type guard struct {
	state fnapi.StateHandler
	first atomic.Pointer[error]
}

var _ fnapi.QuickStateHandler = (*guard)(nil)

// Get is fnapi.StateHandler's.
func (g *guard) Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	data, next, err = g.state.Get(ctx, key, req)
	return data, next, g.note(err)
}

// Append is fnapi.StateHandler's.
func (g *guard) Append(ctx context.Context, key *fnpb.StateKey, data []byte) error {
	return g.note(g.state.Append(ctx, key, data))
}

// Clear is fnapi.StateHandler's.
func (g *guard) Clear(ctx context.Context, key *fnpb.StateKey) error {
	return g.note(g.state.Clear(ctx, key))
}

// Quick is fnapi.QuickStateHandler's.
func (g *guard) Quick(key *fnpb.StateKey) bool {
	q, ok := g.state.(fnapi.QuickStateHandler)
	return ok && q.Quick(key)
}

func (g *guard) note(err error) error {
	if err == nil {
		return nil
	}
	var system syscall.Errno
	if errors.As(err, &system) {
		g.first.CompareAndSwap(nil, &err)
	}
	return err
}

// or is what our own machine failed at, else err.
func (g *guard) or(err error) error {
	if own := g.first.Load(); own != nil {
		return *own
	}
	return err
}
