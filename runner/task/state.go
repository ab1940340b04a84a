package task

import (
	"context"
	"fmt"

	"trestle/runner/bundle"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// newState begins the state of a bundle.
func (r *run) newState() bundle.State { return &bundleState{r: r} }

// bundleState answers the state requests of one bundle: side inputs, tails of
// large groups, user state.
type bundleState struct {
	r *run
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
	return nil, nil, fmt.Errorf("unknown kind of state key %T", key.GetType())
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

func (s *bundleState) Append(ctx context.Context, key *fnpb.StateKey, data []byte) error {
	return fmt.Errorf("unknown kind of state key %T", key.GetType())
}

func (s *bundleState) Clear(ctx context.Context, key *fnpb.StateKey) error {
	return fmt.Errorf("unknown kind of state key %T", key.GetType())
}

func (s *bundleState) Commit() error { return nil }
func (s *bundleState) Abort()        {}
