package network_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/shuffle/driver"
)

func id(index int) driver.PartitionID {
	return driver.PartitionID{Job: "job", Dataset: "d", Index: index, Attempt: 1}
}

// fill writes a partition of blocks that tell where they belong, half of them
// staged on disk before. It gives all bytes.
func fill(t testing.TB, r *rig, d driver.Driver, id driver.PartitionID, blocks, size int, disk bool) []byte {
	t.Helper()
	p, err := d.Create(id, 2)
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for i := range blocks {
		data := payload(id, i, size)
		all = append(all, data...)
		b := driver.Block{Sub: i * 2 / blocks, Count: 1, Data: append(r.budget.Chunk(size), data...)}
		if disk {
			if err := p.Stage(&b); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Publish(context.Background(), []driver.Block{b}); err != nil {
			t.Error(err)
			p.Abort(err)
			return all
		}
	}
	if _, err := p.Close(); err != nil {
		t.Error(err)
	}
	return all
}

// payload is a block's bytes: its name, and noise or zeros.
func payload(id driver.PartitionID, i, size int) []byte {
	b := make([]byte, size)
	n := copy(b, fmt.Sprintf("%v block %d;", id, i))
	if i%3 > 0 {
		rng := rand.New(rand.NewPCG(uint64(i), uint64(id.Index)))
		for j := n; j < size; j++ {
			b[j] = byte(rng.Uint32())
		}
	}
	return b
}

// readAll reads to the end.
func readAll(r driver.Reader) ([]byte, error) {
	var all []byte
	for {
		data, _, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, data...)
	}
}

// A connection that is cut again and again costs time and nothing else: each
// block comes once, in order.
func TestCutConnections(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("blocking disk=%t", disk), func(t *testing.T) {
			r := newRig(t, rigConfig{cutting: true})
			var want []byte
			for i := range 3 {
				want = append(want, fill(t, r, r.disk, id(i), 30, 40_000, disk)...)
			}
			r.proxy.set(func() { r.proxy.cutAt = 300_000 })
			rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0), id(1), id(2)}, 0, 2)
			defer rd.Close()
			got, err := readAll(rd)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes of %d, %v", len(got), len(want), err)
			}
			if n := r.proxy.cutSoFar(); n < 5 {
				t.Errorf("only %d cuts", n)
			}
		})
	}
	t.Run("pipelined", func(t *testing.T) {
		r := newRig(t, rigConfig{cutting: true})
		r.proxy.set(func() { r.proxy.cutAt = 300_000 })
		rd := r.client.OpenOnce("tm-1", pipelined, []driver.PartitionID{id(0)}, 0, 2)
		defer rd.Close()
		want := make(chan []byte, 1)
		go func() { want <- fill(t, r, r.pipes, id(0), 90, 40_000, false) }()
		got, err := readAll(rd)
		// Only within a sub-partition is there an order.
		if w := <-want; err != nil || !slices.Equal(inBlocks(got, 40_000), inBlocks(w, 40_000)) {
			t.Fatalf("got %d bytes of %d, %v", len(got), len(w), err)
		}
		if n := r.proxy.cutSoFar(); n < 5 {
			t.Errorf("only %d cuts", n)
		}
	})
}

// inBlocks cuts bytes into blocks, and sorts them.
func inBlocks(b []byte, size int) []string {
	var all []string
	for block := range slices.Chunk(b, size) {
		all = append(all, string(block))
	}
	slices.Sort(all)
	return all
}

// A block that is longer than a message comes in pieces, also when those are cut.
func TestLongBlock(t *testing.T) {
	for _, cut := range []bool{false, true} {
		for _, disk := range []bool{false, true} {
			r := newRig(t, rigConfig{cutting: true})
			if cut {
				r.proxy.set(func() { r.proxy.cutAt = 5 << 20 })
			}
			want := fill(t, r, r.disk, id(0), 5, 3<<20+1, disk)
			rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0)}, 0, 2)
			got, err := readAll(rd)
			rd.Close()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes of %d, %v", len(got), len(want), err)
			}
		}
	}
}

// The TaskManager is started again while it is read, and has its disk: the
// reading goes on at the block where it stopped.
func TestRestartWithDisk(t *testing.T) {
	r := newRig(t, rigConfig{window: 64 << 10, retry: time.Minute})
	var want []byte
	for i := range 2 {
		want = append(want, fill(t, r, r.disk, id(i), 40, 30_000, true)...)
	}
	rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0), id(1)}, 0, 2)
	defer rd.Close()
	var got []byte
	for range 50 {
		data, _, err := rd.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, data...)
	}
	r.restart(t)
	rest, err := readAll(rd)
	if got = append(got, rest...); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes of %d, %v", len(got), len(want), err)
	}
}

// What was in memory is lost with its process, and the error says so: blocking
// partitions by name, pipelined ones without ever giving a part as the whole.
func TestRestartWithoutDisk(t *testing.T) {
	t.Run(blocking, func(t *testing.T) {
		r := newRig(t, rigConfig{window: 64 << 10, retry: time.Minute})
		fill(t, r, r.disk, id(0), 10, 30_000, true)
		fill(t, r, r.disk, id(1), 40, 30_000, false)
		rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0), id(1)}, 0, 2)
		defer rd.Close()
		if _, _, err := rd.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.restart(t)
		_, err := readAll(rd)
		if lost := driver.LostIn(err); len(lost) != 1 || lost[0].Partition != id(1) || !strings.Contains(err.Error(), "tm-1") {
			t.Fatalf("got %v, want partition 1 lost", err)
		}
		r.budget.Give(r.budget.Used()) // the process is gone
	})
	t.Run(pipelined, func(t *testing.T) {
		r := newRig(t, rigConfig{window: 64 << 10, pipe: 1 << 20, retry: time.Minute})
		fill(t, r, r.pipes, id(0), 10, 30_000, false)
		rd := r.client.OpenOnce("tm-1", pipelined, []driver.PartitionID{id(0)}, 0, 2)
		defer rd.Close()
		if _, _, err := rd.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.restart(t)
		_, err := readAll(rd)
		if lost := driver.LostIn(err); len(lost) != 1 || lost[0].Partition != id(0) {
			t.Fatalf("got %v, want partition 0 lost", err)
		}
		r.budget.Give(r.budget.Used())
	})
}

// A TaskManager that isn't reached is tried for a bounded time; then all that is
// to be read of it is lost, and it is named.
func TestUnreachable(t *testing.T) {
	r := newRig(t, rigConfig{cutting: true, retry: 100 * time.Millisecond})
	r.proxy.refuse(true)
	rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0), id(1)}, 0, 2)
	defer rd.Close()
	_, err := readAll(rd)
	if lost := driver.LostIn(err); len(lost) != 2 || !strings.Contains(err.Error(), "TaskManager tm-1 can't be reached") {
		t.Fatalf("got %v", err)
	}
}

// A reader that never comes back frees the writer, after a while.
func TestReaderIsLost(t *testing.T) {
	r := newRig(t, rigConfig{cutting: true, window: 64 << 10, keep: 50 * time.Millisecond, retry: 50 * time.Millisecond})
	wrote := make(chan error, 1)
	go func() {
		p, err := r.pipes.Create(id(0), 1)
		for err == nil {
			err = p.Publish(context.Background(), []driver.Block{{Count: 1, Data: append(r.budget.Chunk(40_000), make([]byte, 40_000)...)}})
		}
		wrote <- err
	}()
	rd := r.client.OpenOnce("tm-1", pipelined, []driver.PartitionID{id(0)}, 0, 1)
	defer rd.Close()
	if _, _, err := rd.Next(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.proxy.refuse(true)
	r.proxy.cut()
	if err := <-wrote; len(driver.LostIn(err)) != 1 {
		t.Errorf("the writer got %v", err)
	}
	r.proxy.refuse(false)
	if _, err := readAll(rd); len(driver.LostIn(err)) != 1 {
		t.Errorf("the reader got %v", err)
	}
}

// A bit that is flipped on the way is noticed, and the block comes again. One
// that is flipped on the disk there makes the partition lost.
func TestFlippedBits(t *testing.T) {
	t.Run("on the way", func(t *testing.T) {
		r := newRig(t, rigConfig{cutting: true})
		want := fill(t, r, r.disk, id(0), 40, 40_000, true)
		for at := int64(1000); at < 1_000_000; at += 77_777 {
			r.proxy.set(func() { r.proxy.flip = at })
			r.proxy.cut() // the next connection has it
			rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0)}, 0, 2)
			got, err := readAll(rd)
			rd.Close()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("flipped at %d: got %d bytes of %d, %v", at, len(got), len(want), err)
			}
		}
	})
	t.Run("on the disk", func(t *testing.T) {
		r := newRig(t, rigConfig{})
		fill(t, r, r.disk, id(0), 10, 40_000, true)
		files, err := filepath.Glob(filepath.Join(r.dir, "*", "*.part"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		file, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		file[100_000] ^= 4
		if err := os.WriteFile(files[0], file, 0o600); err != nil {
			t.Fatal(err)
		}
		rd := r.client.Open("tm-1", blocking, []driver.PartitionID{id(0)}, 0, 2)
		defer rd.Close()
		_, err = readAll(rd)
		if lost := driver.LostIn(err); len(lost) != 1 || lost[0].Partition != id(0) {
			t.Fatalf("got %v", err)
		}
	})
}
