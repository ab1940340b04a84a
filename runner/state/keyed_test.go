package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"trestle/internal/membudget"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/cockroachdb/pebble/v2"
)

// keyedAndBatch are the two backends over the same requests.
type keyedAndBatch struct {
	keyed *Keyed
	batch *Batch
}

// TestKeyedAgainstBatch sends the same requests to a Batch, which holds all in
// memory, and to a Keyed with next to none: they answer alike.
func TestKeyedAgainstBatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	budget := membudget.New(1 << 20)
	dir := t.TempDir()
	store := NewStore(dir, budget)
	opt := Options{Budget: budget, PageBytes: 100}
	s := keyedAndBatch{
		NewKeyed(opt, store, evenGroups),
		NewBatch(Options{Budget: membudget.New(1 << 30), PageBytes: 100}),
	}
	ctx := context.Background()
	for i := range 600 {
		keyed, batch := s.keyed.Bundle(), s.batch.Bundle()
		for range 1 + rnd.IntN(40) {
			key, data := randomRequest(rnd)
			switch rnd.IntN(6) {
			case 0, 1:
				got, pages := read(t, keyed, key)
				want, wantPages := read(t, batch, key)
				if !bytes.Equal(got, want) || pages != wantPages {
					t.Fatalf("bundle %d: %v is %q in %d pages, want %q in %d", i, key, got, pages, want, wantPages)
				}
			case 2:
				if err := keyed.Clear(ctx, key); err != nil {
					t.Fatal(err)
				}
				batch.Clear(ctx, key)
			default:
				err, wantErr := keyed.Append(ctx, key, data), batch.Append(ctx, key, data)
				if (err == nil) != (wantErr == nil) {
					t.Fatalf("bundle %d: %v, want %v", i, err, wantErr)
				}
			}
		}
		if rnd.IntN(4) == 0 {
			keyed.Abort()
			batch.Abort()
		} else if err := keyed.Commit(); err != nil {
			t.Fatal(err)
		} else if err := batch.Commit(); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(5) == 0 {
			key := fmt.Sprint("k", rnd.IntN(2000))
			if err := s.keyed.Drop("", key); err != nil {
				t.Fatal(err)
			}
			dropAll(s.batch, key)
		}
		if err := s.keyed.Trim(); err != nil {
			t.Fatal(err)
		}
	}
	if budget.SpilledBytes() == 0 {
		t.Error("nothing was ever on disk")
	}
	checkDropped(t, s.keyed)
	if err := s.keyed.Close(); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	if files, _ := os.ReadDir(dir); budget.Used() != 0 || len(files) > 0 {
		t.Errorf("%d bytes are still taken, %d files left", budget.Used(), len(files))
	}
}

// checkDropped drops all keys, and sees that nothing is left.
func checkDropped(t *testing.T, s *Keyed) {
	t.Helper()
	for i := range 2000 {
		if err := s.Drop("", fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := shelved(t, s); n != 0 || s.table.Len() != 0 {
		t.Errorf("%d bytes are left of bags that are gone, and %d keys", n, s.table.Len())
	}
}

// dropAll does what Drop does where the states aren't declared.
func dropAll(s *Batch, key string) {
	for id := range s.cells {
		if id.key == key {
			delete(s.cells, id)
		}
	}
}

// randomRequest is a cell of one of many keys, and what may be appended to it.
func randomRequest(rnd *rand.Rand) (*fnpb.StateKey, []byte) {
	key := fmt.Sprint("k", rnd.IntN(2000))
	data := bytes.Repeat([]byte{byte('a' + rnd.IntN(26))}, 1+rnd.IntN(120))
	switch rnd.IntN(4) {
	case 0:
		return mapKey("map", key, fmt.Sprint("m", rnd.IntN(4))), data
	case 1:
		return mapKey("map", key, "*"), data
	case 2:
		lo := int64(rnd.IntN(10) - 5)
		if rnd.IntN(2) == 0 {
			lo = math.MinInt64
		}
		return listKey("list", key, lo, lo+int64(rnd.IntN(8))), listEntry(int64(rnd.IntN(20)-10), string(data))
	}
	return bagKey("bag", key), data
}

// FuzzKeyedRecord reads hostile records: they are refused, or what they make is
// a record again.
func FuzzKeyedRecord(f *testing.F) {
	f.Add([]byte{1, 1, 1, 'w', 1, 't', 1, 's', 2, 1, 'x', 2, 'y', 'z'})
	f.Add([]byte{1, 2, 0, 0, 0, 1, 1, 'm', 1, 1, 'v'})
	f.Add([]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff})
	s := NewKeyed(Options{Budget: membudget.New(1 << 20)}, NewStore("", membudget.New(1)), evenGroups)
	f.Fuzz(func(t *testing.T, record []byte) {
		p := keyedPager{s}
		k, n, err := p.Enter("key", record)
		if err != nil {
			return
		}
		again := p.Leave(nil, k, nil)
		if _, m, err := p.Enter("key", again); err != nil || n != m {
			t.Fatalf("%x was a record of %d bytes; %x is one of %d, %v", record, n, again, m, err)
		}
	})
}

// Of a bag of many pages the tail is in memory and the rest on disk, through
// bundles that fail and keys that leave memory; when it is cleared, nothing is
// left anywhere.
func TestLargeBag(t *testing.T) {
	ctx := context.Background()
	budget := membudget.New(256 << 10)
	store := NewStore(t.TempDir(), budget)
	s := NewKeyed(Options{Budget: budget, PageBytes: 1000}, store, evenGroups)
	key := bagKey("bag", "large")
	var want []byte
	for i := range 200 {
		b := s.Bundle()
		var added []byte
		if i%4 < 2 { // others have all memory
			budget.Take(budget.Limit())
		}
		for j := range 200 {
			value := fmt.Appendf(nil, "value %d of %d;", j, i)
			if err := b.Append(ctx, key, value); err != nil {
				t.Fatal(err)
			}
			added = append(added, value...)
		}
		if i%4 < 2 {
			budget.Give(budget.Limit())
		}
		if i%3 == 0 {
			b.Abort()
			continue
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		want = append(want, added...)
		if s.table.held > 10_000 {
			t.Fatalf("%d bytes are in memory after bundle %d", s.table.held, i)
		}
		if i%5 == 0 { // as Trim does where memory is wanted
			if err := errors.Join(s.table.turn(), s.table.turn()); err != nil {
				t.Fatal(err)
			}
		}
	}
	b := s.Bundle()
	if got, pages := read(t, b, key); !bytes.Equal(got, want) || pages < len(want)/1100 {
		t.Fatalf("%d bytes in %d pages, want %d", len(got), pages, len(want))
	}
	if n, size := shelved(t, s), int64(len(want)); n < size-3000 || n > size {
		t.Errorf("%d bytes are on the shelf, of a bag of %d", n, size)
	}
	if err := b.Clear(ctx, key); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := shelved(t, s); n != 0 {
		t.Errorf("%d bytes are left of a bag that was cleared", n)
	}
	if err := errors.Join(s.Close(), store.Close()); err != nil || budget.Used() != 0 {
		t.Errorf("%v, %d bytes are still taken", err, budget.Used())
	}
}

// shelved is how many bytes a Keyed has on its shelf.
func shelved(t *testing.T, s *Keyed) (n int64) {
	t.Helper()
	db, err := s.shelf.store.tree()
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: s.shelf.prefix, UpperBound: after(s.shelf.prefix)})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		n += int64(len(it.Value()))
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}
