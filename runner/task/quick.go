package task

import (
	"trestle/fnapi"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

var (
	_ fnapi.QuickStateHandler = (*bundleState)(nil)
	_ fnapi.QuickStateHandler = (*streamState)(nil)
)

// Quick reports whether a request is answered from memory: only that of user
// state may be; see fnapi.QuickStateHandler.
func (s *bundleState) Quick(key *fnpb.StateKey) bool { return s.user != nil && s.user.Quick(key) }

// Quick is the same for a streaming task.
func (b *streamState) Quick(key *fnpb.StateKey) bool { return b.user != nil && b.user.Quick(key) }
