package state

import (
	"context"
	"fmt"
	"testing"

	"trestle/internal/membudget"
)

// What is in memory is quick, what is on disk is not.
func TestQuick(t *testing.T) {
	ctx := context.Background()
	budget := membudget.New(1 << 20)
	store := NewStore(t.TempDir(), budget)
	s := NewKeyed(Options{Budget: budget}, store, evenGroups)
	defer store.Close()
	defer s.Close()
	const keys = 3000
	write := func(from, to int) {
		b := s.Bundle()
		for i := from; i < to; i++ {
			key := bagKey("bag", fmt.Sprint("k", i))
			if !b.Quick(key) && s.table.disk == 0 {
				t.Fatalf("key %d is slow while nothing is on disk", i)
			}
			if err := b.Append(ctx, key, make([]byte, 400)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < keys; i += 100 {
		write(i, i+100)
		if i == keys/2 {
			if err := s.Trim(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.table.disk == 0 || s.table.disk == keys {
		t.Fatalf("%d of %d keys are on disk", s.table.disk, keys)
	}
	b := s.Bundle()
	defer b.Abort()
	quick := 0
	for i := range keys {
		key := bagKey("bag", fmt.Sprint("k", i))
		was := b.Quick(key)
		if was {
			quick++
		}
		before := s.table.disk
		if data, _ := read(t, b, key); len(data) != 400 {
			t.Fatalf("key %d has %d bytes", i, len(data))
		}
		if read := s.table.disk < before; was == read {
			t.Fatalf("key %d: quick is %v, but it was read from disk: %v", i, was, read)
		}
		if !b.Quick(key) {
			t.Fatalf("key %d is slow after it was read", i)
		}
	}
	if quick == 0 || quick == keys {
		t.Errorf("%d of %d keys were quick", quick, keys)
	}
	if b.Quick(mapKey("map", "k1", "m")) {
		t.Error("a map is quick")
	}
	s.mu.Lock()
	if b.Quick(bagKey("bag", "k1")) {
		t.Error("what another holds is quick")
	}
	s.mu.Unlock()
}

// A batch is quick until something of it is in its file.
func TestQuickBatch(t *testing.T) {
	ctx := context.Background()
	s := NewBatch(Options{Budget: membudget.New(100_000), Dir: t.TempDir(), PageBytes: 20_000})
	defer s.Close()
	b := s.Bundle()
	key := bagKey("bag", "k")
	for i := range 10 {
		if quick := b.Quick(key); quick != (i < 5) { // the budget takes four, and the fifth finds it full
			t.Errorf("before append %d quick is %v", i, quick)
		}
		if err := b.Append(ctx, key, make([]byte, 20_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if s.Bundle().Quick(key) {
		t.Error("what is in the file is quick")
	}
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	if !s.Bundle().Quick(key) {
		t.Error("new keys are slow")
	}
}
