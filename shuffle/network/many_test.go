package network_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"trestle/shuffle/driver"
)

// Many readers share one connection that breaks now and then; some leave early.
// All others get all they came for, and nothing is left (the rig looks).
func TestManyReaders(t *testing.T) {
	const size = 20_000
	r := newRig(t, rigConfig{cutting: true, window: 64 << 10, retry: time.Minute})
	r.proxy.set(func() { r.proxy.cutAt = 1_000_000 })
	var want [][]byte
	for i := range 8 {
		want = append(want, fill(t, r, r.disk, id(i), 20, size, i%2 == 0))
	}
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			which := i % 8
			rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(which)}, 0, 2)
			defer rd.Close()
			if i >= 16 {
				for range i - 16 {
					if _, _, err := rd.Next(context.Background()); err != nil {
						t.Error(err)
					}
				}
				return
			}
			if got, err := readAll(rd); err != nil || !bytes.Equal(got, want[which]) {
				t.Errorf("reader %d got %d bytes of %d, %v", i, len(got), len(want[which]), err)
			}
		})
	}
	for i := range 8 {
		piped := id(100 + i)
		written := make(chan []byte, 1)
		all.Go(func() { written <- fill(t, r, r.pipes, piped, 40, size, i%2 == 0) })
		all.Go(func() {
			rd := r.client.OpenOnce("tm-1", pipelined, []driver.PartitionID{piped}, 0, 2)
			defer rd.Close()
			got, err := readAll(rd)
			// Small blocks may have been joined.
			if w := <-written; err != nil || !slices.Equal(inBlocks(got, size), inBlocks(w, size)) {
				t.Errorf("pipelined reader %d got %d bytes of %d, %v", i, len(got), len(w), err)
			}
		})
	}
	all.Wait()
	if n := r.proxy.cutSoFar(); n < 3 {
		t.Errorf("only %d cuts", n)
	}
	r.disk.ReleaseJob("job")
	r.pipes.ReleaseJob("job")
	r.halt()
	if used := r.budget.Used(); used != 0 {
		t.Errorf("%d bytes of the server's budget are still taken", used)
	}
}
