package membudget

import "testing"

func TestTryTakeStopsAtTheLimit(t *testing.T) {
	b := New(1000)
	if !b.TryTake(600) || b.TryTake(401) || !b.TryTake(400) {
		t.Fatal("TryTake must succeed up to the limit and no further")
	}
	b.Take(50)
	if b.Used() != 1050 {
		t.Fatalf("used %d, want 1050: Take always succeeds", b.Used())
	}
	b.Give(1050)
	if b.Used() != 0 || !b.TryTake(1000) {
		t.Fatal("what was given back must be there again")
	}
}

func TestChunkSizes(t *testing.T) {
	for n, want := range map[int]int{
		0: 512, 1: 512, 512: 512, 513: 1024, 4096: 4096, 4097: 8192,
		MaxChunk: MaxChunk, MaxChunk + 1: MaxChunk + MaxChunk/2, 10 << 20: 10 << 20,
	} {
		if got := ChunkSize(n); got != want {
			t.Errorf("ChunkSize(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestChunksAreCountedAndReused(t *testing.T) {
	b := New(4096)
	c := b.TryChunk(3000)
	if cap(c) != 4096 || len(c) != 0 || b.Used() != 4096 {
		t.Fatalf("cap %d len %d used %d", cap(c), len(c), b.Used())
	}
	if b.TryChunk(1) != nil {
		t.Fatal("nothing is left")
	}
	big := b.Chunk(MaxChunk + 1)
	b.Free(big)
	b.Free(c)
	b.Free(nil)
	if b.Used() != 0 {
		t.Fatalf("used %d after all is free", b.Used())
	}
	allocs := testing.AllocsPerRun(100, func() { b.Free(b.Chunk(2000)) })
	if allocs > 0.5 {
		t.Fatalf("%v allocations for a pooled chunk", allocs)
	}
}
