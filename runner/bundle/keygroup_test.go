package bundle_test

import (
	"encoding/binary"
	"testing"

	"trestle/runner/bundle"

	"pgregory.net/rapid"
)

// An element and a state request that have one key, with its length before it or
// without, are in one group; also where a key looks as if it had a length.
func TestKeyGroup(t *testing.T) {
	prefixed := func(key []byte) []byte {
		return append(binary.AppendUvarint(nil, uint64(len(key))), key...)
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "key")
		groups := rapid.IntRange(1, 1000).Draw(t, "groups")
		for range rapid.IntRange(0, 3).Draw(t, "lengths") {
			key = prefixed(key)
		}
		bare, whole := bundle.KeyGroup(key, groups), bundle.KeyGroup(prefixed(key), groups)
		if bare != whole || bare < 0 || bare >= groups {
			t.Errorf("key %q is in group %d of %d, and with its length in %d", key, bare, groups, whole)
		}
	})
	used := map[int]bool{}
	for i := range 10_000 {
		used[bundle.KeyGroup(binary.BigEndian.AppendUint32(nil, uint32(i)), 128)] = true
	}
	if len(used) != 128 {
		t.Errorf("ten thousand keys are in %d of 128 groups", len(used))
	}
}
