package task

import (
	"encoding/binary"
	"fmt"
	"sync"

	"trestle/fnapi"
	"trestle/runner/bundle"

	"github.com/cespare/xxhash/v2"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// userTokens let workers keep the user state of one task from one bundle to the
// next: what a worker cached under a token is right as long as it is given the
// same one.
//
// A token is one worker's. When another worker has had a bundle in between, or a
// bundle has failed, whose writes are gone here but not in the worker's cache,
// the next bundle gets a token that nobody had before.
type userTokens struct {
	mu     sync.Mutex
	holder *fnapi.Worker
	count  uint64
}

// of is the token of a bundle that w is about to run.
func (t *userTokens) of(w *fnapi.Worker, task ID) *fnpb.ProcessBundleRequest_CacheToken {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != w {
		t.holder = w
		t.count++
	}
	return &fnpb.ProcessBundleRequest_CacheToken{
		Type:  &fnpb.ProcessBundleRequest_CacheToken_UserState_{UserState: &fnpb.ProcessBundleRequest_CacheToken_UserState{}},
		Token: fmt.Appendf(nil, "%s/%d", task, t.count),
	}
}

// held is the worker whose token the next bundle may have, nil if none's.
func (t *userTokens) held() *fnapi.Worker {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder
}

// renew makes what workers have cached worthless.
func (t *userTokens) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.holder = nil
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

// cacheTokens are those of a bundle of a batch that is about to be tried.
func (r *run) cacheTokens(w *fnapi.Worker) []*fnpb.ProcessBundleRequest_CacheToken {
	all := r.sideTokens
	if r.user == nil {
		return all
	}
	return append(all[:len(all):len(all)], r.userTokens.of(w, r.spec.ID))
}

// cacheTokens are those of a streaming bundle that is about to be tried. A side
// input's lasts until more of it has come to this task, which is not the same for
// all tasks.
func (s *stream) cacheTokens(w *fnapi.Worker) []*fnpb.ProcessBundleRequest_CacheToken {
	var all []*fnpb.ProcessBundleRequest_CacheToken
	for k, l := range s.sides {
		if !s.r.prog.OneToken {
			all = append(all, sideToken(k, fmt.Sprintf("%s/%d", s.r.spec.ID, l.version)))
		}
	}
	if s.state != nil {
		all = append(all, s.r.userTokens.of(w, s.r.spec.ID))
	}
	return all
}
