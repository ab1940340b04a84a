package network_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"trestle/shuffle/driver"
)

// Who reads slowly holds the writer up, and nobody else on the connection: what
// is under way stays within the windows.
func TestSlowReader(t *testing.T) {
	const size, window = 40_000, 256 << 10
	r := newRig(t, rigConfig{window: window, pipe: window})
	slow := r.client.OpenOnce("tm-1", pipelined, []driver.PartitionID{id(0)}, 0, 1)
	defer slow.Close()
	const blocks = 500
	var published atomic.Int64
	wrote := make(chan error, 1)
	go func() {
		p, err := r.pipes.Create(id(0), 1)
		for i := 0; i < blocks && err == nil; i++ {
			b := driver.Block{Count: 1, Data: append(r.budget.Chunk(size), payload(id(0), i, size)...)}
			err = p.Publish(context.Background(), []driver.Block{b})
			published.Add(1)
		}
		if err == nil {
			_, err = p.Close()
		}
		wrote <- err
	}()
	first, _, err := slow.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := bytes.Clone(first)

	// Much more than any buffer between them goes past the slow one.
	want := fill(t, r, r.disk, id(1), 1000, size, false)
	fast := r.client.Open("tm-1", blocking, []driver.PartitionID{id(1)}, 0, 2)
	defer fast.Close()
	if all, err := readAll(fast); err != nil || !bytes.Equal(all, want) {
		t.Fatalf("the fast reader got %d bytes of %d, %v", len(all), len(want), err)
	}
	// The pipe's window, the reading's, and one block at each step.
	if n, most := published.Load(), int64(2*window/size+4); n > most {
		t.Errorf("%d blocks are published, and one was read: at most %d fit the windows", n, most)
	}

	rest, err := readAll(slow)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	got = append(got, rest...)
	for i := range blocks {
		if !bytes.Equal(got[i*size:(i+1)*size], payload(id(0), i, size)) {
			t.Fatalf("block %d is wrong", i)
		}
	}
}
