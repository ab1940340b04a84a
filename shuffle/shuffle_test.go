package shuffle_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"trestle/internal/membudget"
	"trestle/shuffle"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newService(t testing.TB, limit int64) (*shuffle.Service, *membudget.Budget) {
	budget := membudget.New(limit)
	disk, err := localdisk.New(t.TempDir(), localdisk.Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	return shuffle.New(budget, map[string]driver.Driver{
		shuffle.Blocking:  disk,
		shuffle.Pipelined: memory.New(memory.Config{Budget: budget, Dir: t.TempDir()}),
	}), budget
}

var theID = shuffle.PartitionID{Job: "job", Dataset: "d1", Attempt: 1}

// number makes an element that tells where it belongs: sub-partition, bundle,
// and its place there. Its length varies up to most bytes.
func number(dst []byte, sub, bundle, place, most int) []byte {
	n := 16 + (sub*31+bundle*7+place)%most
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	dst = binary.BigEndian.AppendUint32(dst, uint32(sub))
	dst = binary.BigEndian.AppendUint32(dst, uint32(bundle))
	dst = binary.BigEndian.AppendUint32(dst, uint32(place))
	for range n - 16 {
		dst = append(dst, byte(n))
	}
	return dst
}

// collect reads a range and counts each element; it checks that the elements
// of one sub-partition and bundle come in order.
func collect(t *testing.T, r *shuffle.Reader) map[[3]int]int {
	t.Helper()
	defer r.Close()
	seen := map[[3]int]int{}
	last := map[[2]int]int{}
	for {
		b, count, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return seen
		}
		if err != nil {
			t.Error(err)
			return seen
		}
		for ; len(b) > 0; count-- {
			word := func(i int) int { return int(binary.BigEndian.Uint32(b[4*i:])) }
			sub, bundle, place := word(1), word(2), word(3)
			seen[[3]int{sub, bundle, place}]++
			if prev, ok := last[[2]int{sub, bundle}]; ok && prev >= place {
				t.Errorf("element %d of sub-partition %d, bundle %d comes after %d", place, sub, bundle, prev)
			}
			last[[2]int{sub, bundle}] = place
			b = b[word(0):]
		}
		if count != 0 {
			t.Errorf("a block holds %d elements more or less than it says", count)
		}
	}
}

// TestCommit writes bundles from several goroutines, aborts some, and reads
// exactly the others, with any budget and over both exchanges.
func TestCommit(t *testing.T) {
	const goroutines, bundles, subs = 3, 8, 7
	for _, exchange := range []string{shuffle.Blocking, shuffle.Pipelined} {
		for _, limit := range []int64{64 << 20, 300_000, 0} {
			for _, c := range []struct{ perSub, most int }{{3, 100}, {400, 2000}, {2, 500_000}} {
				t.Run(fmt.Sprintf("%s/budget=%d/%dx%d", exchange, limit, c.perSub, c.most), func(t *testing.T) {
					s, budget := newService(t, limit)
					w, err := s.Create(context.Background(), theID, subs, exchange)
					if err != nil {
						t.Fatal(err)
					}
					defer w.Abort()
					var readers sync.WaitGroup
					read := func() {
						for lo := 0; lo < subs; lo += 4 {
							hi := min(lo+4, subs)
							r, err := s.Open(context.Background(), exchange, []shuffle.PartitionID{theID}, lo, hi)
							if err != nil {
								t.Fatal(err)
							}
							readers.Go(func() { checkAll(t, collect(t, r), lo, hi, goroutines*bundles, c.perSub) })
						}
					}
					if exchange == shuffle.Pipelined {
						read()
					}
					var writers sync.WaitGroup
					for g := range goroutines {
						writers.Go(func() {
							for b := range bundles {
								writeBundle(t, w, g*bundles+b, subs, c.perSub, c.most)
							}
						})
					}
					writers.Wait()
					sizes, err := w.Close(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					if exchange == shuffle.Blocking {
						read()
					}
					readers.Wait()
					checkSizes(t, sizes, subs, goroutines*bundles, c.perSub)
					s.ReleaseJob("job")
					if used := budget.Used(); used != 0 {
						t.Errorf("%d bytes of the budget are still taken", used)
					}
				})
			}
		}
	}
}

// writeBundle writes perSub elements to each sub-partition; each third bundle
// is aborted.
func writeBundle(t *testing.T, w *shuffle.Writer, bundle, subs, perSub, most int) {
	txn := w.Begin()
	var buf []byte
	for place := range perSub {
		for sub := range subs {
			buf = number(buf[:0], sub, bundle, place, most)
			if err := txn.Append(sub, buf, 1); err != nil {
				t.Error(err)
			}
		}
	}
	if bundle%3 == 0 {
		txn.Abort()
		return
	}
	if err := txn.Commit(context.Background()); err != nil {
		t.Error(err)
	}
}

func checkAll(t *testing.T, seen map[[3]int]int, lo, hi, bundles, perSub int) {
	for bundle := range bundles {
		for sub := lo; sub < hi; sub++ {
			for place := range perSub {
				want := 1
				if bundle%3 == 0 {
					want = 0
				}
				e := [3]int{sub, bundle, place}
				if seen[e] != want {
					t.Errorf("element %d of sub-partition %d, bundle %d: seen %d times, want %d", place, sub, bundle, seen[e], want)
				}
				delete(seen, e)
			}
		}
	}
	if len(seen) > 0 {
		t.Errorf("%d elements that nobody wrote to [%d, %d)", len(seen), lo, hi)
	}
}

func checkSizes(t *testing.T, sizes shuffle.Sizes, subs, bundles, perSub int) {
	t.Helper()
	committed := bundles - (bundles+2)/3
	if want := int64(committed * subs * perSub); sizes.Count != want {
		t.Errorf("count %d, want %d", sizes.Count, want)
	}
	sum := int64(0)
	for _, n := range sizes.BySub {
		sum += n
	}
	if len(sizes.BySub) != subs || sum != sizes.Bytes || sum == 0 {
		t.Errorf("sizes don't add up: %+v", sizes)
	}
	if sizes.Durable == "" {
		t.Error("durability is not told")
	}
}

// A small partition stays in memory; one beyond its share goes to disk.
func TestDurable(t *testing.T) {
	for _, c := range []struct {
		bytes int
		want  string
	}{{10_000, "memory"}, {30 << 20, "disk"}} {
		s, _ := newService(t, 32<<20)
		w, _ := s.Create(context.Background(), theID, 2, shuffle.Blocking)
		txn := w.Begin()
		for n := 0; n < c.bytes; n += 1000 {
			if err := txn.Append(n/1000%2, make([]byte, 1000), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := txn.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		sizes, err := w.Close(context.Background())
		if err != nil || sizes.Durable != c.want {
			t.Errorf("%d bytes: %q, %v; want %q", c.bytes, sizes.Durable, err, c.want)
		}
		s.ReleaseJob("job")
	}
}

func TestUnknownExchange(t *testing.T) {
	s, _ := newService(t, 0)
	_, err := s.Create(context.Background(), theID, 1, "carrier pigeon")
	if err == nil || !strings.Contains(err.Error(), "carrier pigeon") {
		t.Fatalf("got %v", err)
	}
}

// Many sub-partitions and small bundles must not take a block's room each.
func TestSmallBundlesTakeLittle(t *testing.T) {
	s, budget := newService(t, 1<<30)
	w, _ := s.Create(context.Background(), theID, 128, shuffle.Blocking)
	defer w.Abort()
	txn := w.Begin()
	for i := range 128 * 3 {
		if err := txn.Append(i%128, make([]byte, 100), 1); err != nil {
			t.Fatal(err)
		}
	}
	if used := budget.Used(); used > 128*1024 {
		t.Errorf("%d bytes for 38,400", used)
	}
	txn.Abort()
}

func TestAppendDoesNotAllocate(t *testing.T) {
	s, _ := newService(t, 1<<30)
	w, _ := s.Create(context.Background(), theID, 16, shuffle.Blocking)
	defer w.Abort()
	txn := w.Begin()
	defer txn.Abort()
	elem := make([]byte, 100)
	i := 0
	allocs := testing.AllocsPerRun(20_000, func() {
		_ = txn.Append(i%16, elem, 1)
		i++
	})
	if allocs > 0.05 {
		t.Errorf("%v allocations per element", allocs)
	}
}

func BenchmarkWriteRead(b *testing.B) {
	for _, c := range []struct {
		name  string
		limit int64
	}{{"memory", 4 << 30}, {"disk", 16 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			const elems, subs = 1_000_000, 128
			data := make([]byte, 100*1000)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			b.SetBytes(elems * 100)
			b.ReportAllocs()
			for b.Loop() {
				s, _ := newService(b, c.limit)
				w, _ := s.Create(context.Background(), theID, subs, shuffle.Blocking)
				for range 10 {
					txn := w.Begin()
					for i := range elems / 10 {
						_ = txn.Append(i*7%subs, data[i%1000*100:][:100], 1)
					}
					if err := txn.Commit(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := w.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
				r, _ := s.Open(context.Background(), shuffle.Blocking, []shuffle.PartitionID{theID}, 0, subs)
				total := 0
				for {
					_, n, err := r.Next(context.Background())
					if err != nil {
						break
					}
					total += n
				}
				r.Close()
				if total != elems {
					b.Fatal(total)
				}
				s.ReleaseJob("job")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/elems, "ns/elem")
		})
	}
}
