package state

import (
	"encoding/binary"
	"testing"

	"trestle/internal/membudget"

	"github.com/cockroachdb/pebble/v2"
)

// What was read from the tree stays in its cache, beside the tree's buffers:
// what a look for a key needs is not read with each one.
func TestStoreCaches(t *testing.T) {
	s := NewStore(t.TempDir(), membudget.New(64<<20))
	db, err := s.tree()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	value := make([]byte, 1000)
	name := func(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }
	const keys = 20_000 // more than a buffer holds
	for i := range keys {
		if err := db.Set(name(i), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	look := func() {
		for i := 0; i < keys; i += 200 {
			_, closer, err := db.Get(name(i))
			if err != nil {
				t.Fatal(err)
			}
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	look()
	before := db.Metrics().BlockCache
	look()
	after := db.Metrics().BlockCache
	if missed, found := after.Misses-before.Misses, after.Hits-before.Hits; missed*4 > found {
		t.Errorf("%d blocks were read again, %d found in the cache of %d bytes", missed, found, after.Size)
	}
}
