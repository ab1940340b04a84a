package task

import (
	"context"
	"fmt"

	"trestle/runner/bundle"
	"trestle/runner/jobgraph"
	"trestle/runner/state"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// openState makes room for user state, if the stage has any.
func (r *run) openState() {
	if r.prog.Node.Root == jobgraph.RootKeyed {
		r.user = state.NewBatch(state.Options{Budget: r.m.cfg.Budget, Dir: r.m.cfg.SpillDir, Declared: r.prog.States})
	}
}

// nextKeys forgets the state of the keys of the last bundle: all of a key's
// elements and timers are done with.
func (r *run) nextKeys() error {
	if r.user == nil {
		return nil
	}
	r.userTokens.renew()
	return r.user.Reset()
}

func (r *run) closeState() {
	if r.user != nil {
		r.user.Close()
	}
}

// newState begins the state of a bundle.
func (r *run) newState() bundle.State {
	s := &bundleState{r: r}
	if r.user != nil {
		s.user = r.user.Bundle()
	}
	return s
}

// bundleState answers the state requests of one bundle: side inputs, tails of
// large groups, user state.
type bundleState struct {
	r    *run
	user *state.Bundle // nil where the stage has no user state
}

// Get answers a read; see fnapi.StateHandler.
func (s *bundleState) Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	token := req.GetContinuationToken()
	if k := sideKey(key); k != (bundle.SideKey{}) {
		h := s.r.views.by[k]
		if h == nil {
			return nil, nil, fmt.Errorf("unknown side input %q of transform %q", k.Tag, k.Transform)
		}
		return h.Read(key, token)
	}
	if k := key.GetRunner(); k != nil {
		large := s.r.large.Load()
		if large == nil {
			return nil, nil, fmt.Errorf("this bundle was given no iterable that is read over the state API")
		}
		return large.Get(k.GetKey(), token)
	}
	if s.user == nil {
		return nil, nil, noState(key)
	}
	return s.user.Get(ctx, key, req)
}

func noState(key *fnpb.StateKey) error {
	return fmt.Errorf("a stage without user state was asked for a state key of type %T", key.GetType())
}

// sideKey is the side input that a state key reads, zero if none.
func sideKey(key *fnpb.StateKey) bundle.SideKey {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_IterableSideInput_:
		return bundle.SideKey{Transform: k.IterableSideInput.GetTransformId(), Tag: k.IterableSideInput.GetSideInputId()}
	case *fnpb.StateKey_MultimapSideInput_:
		return bundle.SideKey{Transform: k.MultimapSideInput.GetTransformId(), Tag: k.MultimapSideInput.GetSideInputId()}
	case *fnpb.StateKey_MultimapKeysSideInput_:
		return bundle.SideKey{Transform: k.MultimapKeysSideInput.GetTransformId(), Tag: k.MultimapKeysSideInput.GetSideInputId()}
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		return bundle.SideKey{Transform: k.MultimapKeysValuesSideInput.GetTransformId(), Tag: k.MultimapKeysValuesSideInput.GetSideInputId()}
	}
	return bundle.SideKey{}
}

// Append adds to user state; see fnapi.StateHandler.
func (s *bundleState) Append(ctx context.Context, key *fnpb.StateKey, data []byte) error {
	if s.user == nil {
		return noState(key)
	}
	return s.user.Append(ctx, key, data)
}

// Clear empties user state; see fnapi.StateHandler.
func (s *bundleState) Clear(ctx context.Context, key *fnpb.StateKey) error {
	if s.user == nil {
		return noState(key)
	}
	return s.user.Clear(ctx, key)
}

// Commit makes the bundle's writes part of the state.
func (s *bundleState) Commit() error {
	if s.user == nil {
		return nil
	}
	return s.user.Commit()
}

// Abort drops the bundle's writes.
func (s *bundleState) Abort() {
	if s.user != nil {
		s.user.Abort()
		s.r.userTokens.renew()
	}
}
