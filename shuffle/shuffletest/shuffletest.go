// Package shuffletest is what every shuffle driver must pass.
package shuffletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// A Fixture makes drivers to test.
type Fixture struct {
	// New makes a driver without partitions, whose blocks come from budget.
	New func(t *testing.T, budget *membudget.Budget) driver.Driver
	// Pipelined says that partitions are read while they are written, once.
	Pipelined bool
	// Remote says that readers are in another process, so to say: errors come as
	// text.
	Remote bool
}

// Run runs the suite.
func Run(t *testing.T, f Fixture) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"what was published comes back once", published},
		{"order is kept within a sub-partition", ordered},
		{"ranges of sub-partitions are apart", ranges},
		{"an empty partition ends at once", empty},
		{"an id is created once", createdOnce},
		{"attempts share nothing", attempts},
		{"an aborted partition is an error", aborted},
		{"a released partition is gone", released},
		{"a reader keeps what was released", releasedWhileRead},
		{"a missing partition is named", missing},
		{"a job is released whole", jobReleased},
		{"Next ends with its context", canceled},
	} {
		for _, limit := range []int64{64 << 20, 1} { // plenty, and nothing at all
			t.Run(fmt.Sprintf("%s/budget=%d", c.name, limit), func(t *testing.T) {
				s := &suite{t: t, f: f, budget: membudget.New(limit)}
				s.d = f.New(t, s.budget)
				c.test(t, s)
				s.d.ReleaseJob("job")
				if used := s.budget.Used(); used != 0 {
					t.Errorf("%d bytes of the budget are still taken", used)
				}
			})
		}
	}
}

type suite struct {
	t      *testing.T
	f      Fixture
	budget *membudget.Budget
	d      driver.Driver
}

// ID names a partition of the suite's job.
func id(index int) driver.PartitionID {
	return driver.PartitionID{Job: "job", Dataset: "d/1", Index: index, Attempt: 1}
}

func (s *suite) create(id driver.PartitionID, subs int) driver.Partition {
	s.t.Helper()
	p, err := s.d.Create(id, subs)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// block makes a block in a chunk of the budget.
func (s *suite) block(sub int, data []byte) driver.Block {
	return driver.Block{Sub: sub, Count: 1, Data: append(s.budget.Chunk(len(data)), data...)}
}

func (s *suite) stage(p driver.Partition, b driver.Block) driver.Block {
	s.t.Helper()
	if err := p.Stage(&b); err != nil {
		s.t.Fatal(err)
	}
	if !b.Staged() {
		s.t.Fatal("the block has its bytes still")
	}
	return b
}

// finish publishes blocks and closes p.
func (s *suite) finish(p driver.Partition, blocks ...driver.Block) {
	s.t.Helper()
	if err := p.Publish(context.Background(), blocks); err != nil {
		s.t.Fatal(err)
	}
	if _, err := p.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// read reads to the end, and gives the blocks as strings in order.
func (s *suite) read(lo, hi int, ids ...driver.PartitionID) []string {
	s.t.Helper()
	got, err := s.tryRead(lo, hi, ids...)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *suite) tryRead(lo, hi int, ids ...driver.PartitionID) ([]string, error) {
	r, err := s.d.Open(ids, lo, hi)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return drain(r)
}

func drain(r driver.Reader) ([]string, error) {
	var got []string
	for {
		data, _, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, string(data))
	}
}

func random(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32() >> (seed % 3 * 2)) // more or less compressible
	}
	return b
}

// published writes from several goroutines, staged and not, and reads in one.
func published(t *testing.T, s *suite) {
	const writers, rounds, subs = 4, 20, 3
	p := s.create(id(0), subs)
	want := map[string]int{}
	blocks := make([][]driver.Block, writers)
	for w := range writers {
		for i := range rounds {
			n := []int{1, 100, 3000, 70_000, 300_000}[(w+i)%5]
			b := s.block(i%subs, random(n, uint64(w*rounds+i)))
			want[string(b.Data)]++
			blocks[w] = append(blocks[w], b)
		}
	}
	read := make(chan []string, 1)
	if s.f.Pipelined {
		go func() { got, _ := s.tryRead(0, subs, id(0)); read <- got }()
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { s.write(p, blocks[w], w%2 == 0) })
	}
	wg.Wait()
	if _, err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if !s.f.Pipelined {
		read <- s.read(0, subs, id(0))
	}
	got := <-read
	total := 0
	for _, b := range got {
		total += len(b)
		if !s.f.Pipelined {
			want[b]--
		}
	}
	for b, n := range want {
		if s.f.Pipelined {
			total -= len(b) // small blocks may have been joined
		} else if n != 0 {
			t.Errorf("a block of %d bytes is missing %d times", len(b), n)
		}
	}
	if s.f.Pipelined && total != 0 {
		t.Errorf("%d bytes too many or too few", total)
	}
}

// write publishes blocks, half of them staged before, among others that are
// staged and discarded.
func (s *suite) write(p driver.Partition, blocks []driver.Block, stage bool) {
	for i := range blocks {
		if stage {
			unwanted := s.block(0, []byte("never published"))
			if err := errors.Join(p.Stage(&unwanted), p.Stage(&blocks[i])); err != nil {
				s.t.Error(err)
			}
			p.Discard([]driver.Block{unwanted})
		}
		if err := p.Publish(context.Background(), blocks[i:i+1]); err != nil {
			s.t.Error(err)
		}
	}
}

func ordered(t *testing.T, s *suite) {
	p := s.create(id(0), 2)
	var blocks []driver.Block
	var want []byte
	for i := range 40 {
		data := bytes.Repeat([]byte{byte('a' + i)}, 1000*(i%4+1))
		want = append(want, data...)
		b := s.block(1, data)
		if i%3 == 0 {
			b = s.stage(p, b)
		}
		blocks = append(blocks, b)
	}
	got := make(chan []string, 1)
	if s.f.Pipelined {
		go func() { g, _ := s.tryRead(1, 2, id(0)); got <- g }()
	}
	s.finish(p, blocks...)
	if !s.f.Pipelined {
		got <- s.read(1, 2, id(0))
	}
	if all := join(<-got); all != string(want) {
		t.Errorf("got %d bytes in another order, want %d", len(all), len(want))
	}
}

func join(blocks []string) string {
	var all []byte
	for _, b := range blocks {
		all = append(all, b...)
	}
	return string(all)
}

func ranges(t *testing.T, s *suite) {
	const subs = 5
	ids := []driver.PartitionID{id(0), id(1)}
	for _, id := range ids {
		p := s.create(id, subs)
		var blocks []driver.Block
		for sub := range subs {
			blocks = append(blocks, s.block(sub, []byte{byte('0' + sub)}))
		}
		s.finish(p, blocks...)
	}
	for _, c := range []struct {
		lo, hi int
		want   string
	}{{0, 2, "0011"}, {2, 2, ""}, {2, 5, "223344"}} {
		count := map[rune]int{}
		for _, r := range join(s.read(c.lo, c.hi, ids...)) {
			count[r]++
		}
		for _, r := range c.want {
			count[r]--
		}
		for r, n := range count {
			if n != 0 {
				t.Errorf("[%d,%d): %d too many of %q", c.lo, c.hi, n, r)
			}
		}
	}
	if _, err := s.tryRead(0, subs+1, id(0)); err == nil {
		t.Error("reading more sub-partitions than there are must fail")
	}
}

func empty(t *testing.T, s *suite) {
	s.finish(s.create(id(0), 4))
	if got := s.read(0, 4, id(0)); got != nil {
		t.Errorf("got %q of nothing", got)
	}
	if got := s.read(0, 0); got != nil {
		t.Errorf("got %q of no partition", got)
	}
}

func createdOnce(t *testing.T, s *suite) {
	p := s.create(id(0), 1)
	if _, err := s.d.Create(id(0), 1); err == nil {
		t.Error("a second Create must fail")
	}
	p.Abort(errors.New("enough"))
	if _, err := s.d.Create(id(0), 1); err == nil {
		t.Error("a Create after Abort must fail")
	}
	s.d.Release(id(0))
	if _, err := s.d.Create(id(0), 1); err == nil {
		t.Error("a Create after Release must fail")
	}
	s.d.ReleaseJob("job")
	s.create(id(0), 1).Abort(errors.New("enough"))
}

func attempts(t *testing.T, s *suite) {
	first, second := id(0), id(0)
	second.Attempt = 2
	old, young := s.create(first, 1), s.create(second, 1)
	b := s.stage(old, s.block(0, []byte("old")))
	s.finish(young, s.stage(young, s.block(0, []byte("young"))))
	s.finish(old, b)
	if got := join(s.read(0, 1, second)); got != "young" {
		t.Errorf("got %q", got)
	}
}

func aborted(t *testing.T, s *suite) {
	p := s.create(id(0), 1)
	b := s.stage(p, s.block(0, []byte("x")))
	if err := p.Publish(context.Background(), []driver.Block{b, s.block(0, []byte("y"))}); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the worker is on fire")
	p.Abort(cause)
	_, err := s.tryRead(0, 1, id(0))
	s.wantPartitionError(err, id(0))
	if s.f.Pipelined && !errors.Is(err, cause) && !(s.f.Remote && strings.Contains(fmt.Sprint(err), cause.Error())) {
		t.Errorf("the reader must be told why: %v", err)
	}
	late := s.block(0, []byte("z"))
	if err := p.Publish(context.Background(), []driver.Block{late}); err == nil {
		t.Error("Publish after Abort must fail")
	}
	if _, err := p.Close(); err == nil {
		t.Error("Close after Abort must fail")
	}
}

func (s *suite) wantPartitionError(err error, id driver.PartitionID) {
	s.t.Helper()
	var pe *driver.PartitionError
	if !errors.As(err, &pe) || pe.Partition != id {
		s.t.Errorf("got %v, want a PartitionError of %v", err, id)
	}
}

func released(_ *testing.T, s *suite) {
	s.finish(s.create(id(0), 1), s.block(0, []byte("x")))
	s.d.Release(id(0), id(7))
	_, err := s.tryRead(0, 1, id(0))
	s.wantPartitionError(err, id(0))
	s.d.Release(id(0))
}

func releasedWhileRead(t *testing.T, s *suite) {
	s.finish(s.create(id(0), 2), s.block(0, []byte("x")), s.block(1, random(200_000, 3)))
	r, err := s.d.Open([]driver.PartitionID{id(0)}, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	s.d.Release(id(0))
	got, err := drain(r)
	if err != nil || len(join(got)) != 200_001 {
		t.Errorf("got %d bytes, %v", len(join(got)), err)
	}
	r.Close()
	r.Close()
}

func missing(t *testing.T, s *suite) {
	if s.f.Pipelined {
		t.Skip("it may be created yet")
	}
	s.finish(s.create(id(0), 1))
	_, err := s.tryRead(0, 1, id(0), id(1))
	s.wantPartitionError(err, id(1))
}

func jobReleased(_ *testing.T, s *suite) {
	s.finish(s.create(id(0), 1), s.block(0, []byte("x")))
	writing := s.create(id(1), 1)
	b := s.stage(writing, s.block(0, []byte("x")))
	s.d.ReleaseJob("job")
	if err := writing.Publish(context.Background(), []driver.Block{b}); err == nil {
		s.t.Error("a writer of a released job must fail")
	}
	writing.Abort(errors.New("enough"))
	if got := s.d.Recover(); len(got) != 0 {
		s.t.Errorf("%v are left", got)
	}
}

func canceled(t *testing.T, s *suite) {
	s.finish(s.create(id(0), 1))
	r, err := s.d.Open([]driver.PartitionID{id(0)}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s.f.Pipelined { // one that nobody writes
		if r, err = s.d.Open([]driver.PartitionID{id(1)}, 0, 1); err != nil {
			t.Fatal(err)
		}
		defer r.Close()
	}
	if _, _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
