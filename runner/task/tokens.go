package task

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"trestle/runner/bundle"

	"github.com/cespare/xxhash/v2"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// tokens let a worker keep what it has read over the state API: what it cached
// under a token is right as long as it is given the same one.
//
// A side input's token stands for its generation. That of user state stands for
// one set of keys in one task's hands, and for no failed try of a bundle: what
// such a try wrote is gone here and must be gone in the worker's cache.
type tokens struct {
	side []*fnpb.ProcessBundleRequest_CacheToken
	keys atomic.Uint64 // counts sets of keys and failed tries
}

// sideToken is the token of a side input's generation.
func sideToken(k bundle.SideKey, generation string) *fnpb.ProcessBundleRequest_CacheToken {
	return &fnpb.ProcessBundleRequest_CacheToken{
		Type: &fnpb.ProcessBundleRequest_CacheToken_SideInput_{
			SideInput: &fnpb.ProcessBundleRequest_CacheToken_SideInput{TransformId: k.Transform, SideInputId: k.Tag},
		},
		Token: binary.BigEndian.AppendUint64(nil, xxhash.Sum64String(generation)),
	}
}

// cacheTokens are those of a bundle that is about to be tried.
func (r *run) cacheTokens() []*fnpb.ProcessBundleRequest_CacheToken {
	all := r.tokens.side
	if r.user == nil {
		return all
	}
	return append(all[:len(all):len(all)], &fnpb.ProcessBundleRequest_CacheToken{
		Type:  &fnpb.ProcessBundleRequest_CacheToken_UserState_{UserState: &fnpb.ProcessBundleRequest_CacheToken_UserState{}},
		Token: fmt.Appendf(nil, "%s/%d", r.spec.ID, r.tokens.keys.Load()),
	})
}
