package state

import (
	"fmt"
	"math"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A target is what a request is about.
type target struct {
	cellID
	mapKey   string // mapKind
	wholeMap bool   // mapKind: all keys, not mapKey
	lo, hi   int64  // listKind: sort keys in [lo, hi)
}

// target reads a state key and checks it against what is declared.
func (b *Bundle) target(key *fnpb.StateKey) (target, error) {
	var t target
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_BagUserState_:
		t.cellID = idOf(bagKind, k.BagUserState)
	case *fnpb.StateKey_MultimapUserState_:
		t.cellID = idOf(mapKind, k.MultimapUserState)
		t.mapKey = string(k.MultimapUserState.GetMapKey())
	case *fnpb.StateKey_MultimapKeysUserState_:
		t.cellID = idOf(mapKind, k.MultimapKeysUserState)
		t.wholeMap = true
	case *fnpb.StateKey_OrderedListUserState_:
		t.cellID = idOf(listKind, k.OrderedListUserState)
		t.lo, t.hi = math.MinInt64, math.MaxInt64
		if r := k.OrderedListUserState.GetRange(); r != nil {
			t.lo, t.hi = r.GetStart(), r.GetEnd()
		}
	case nil:
		return t, fmt.Errorf("state request of a kind that is not known: state key %v", key)
	default:
		return t, fmt.Errorf("state request for no user state: %T", k)
	}
	if b.opt.Declared != nil && !slices.Contains(b.opt.Declared[t.transform], t.state) {
		return t, fmt.Errorf("unknown user state %q of transform %q, which declares %v", t.state, t.transform, b.opt.Declared[t.transform])
	}
	return t, nil
}

// idOf names the cell of a user state key; its four parts have the same names
// in every kind.
func idOf(k kind, key interface {
	GetTransformId() string
	GetUserStateId() string
	GetWindow() []byte
	GetKey() []byte
}) cellID {
	return cellID{kind: k, transform: key.GetTransformId(), state: key.GetUserStateId(),
		window: string(key.GetWindow()), key: string(key.GetKey())}
}
