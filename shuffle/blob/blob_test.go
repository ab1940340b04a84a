package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trestle/internal/bucket"
	"trestle/internal/bucket/buckettest"
	"trestle/internal/membudget"
	"trestle/shuffle/driver"
	"trestle/shuffle/shuffletest"

	"github.com/cespare/xxhash/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop")) // the SDK's idle connections
}

// hasty gives up soon, so that tests do.
var hasty = bucket.Options{Tries: 5, Pause: time.Millisecond, MostPause: 5 * time.Millisecond, Idle: 500 * time.Millisecond}

func open(t *testing.T, b *bucket.Bucket, budget *membudget.Budget) *Driver {
	d := New(b, Config{Budget: budget, Dir: t.TempDir()})
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDriver(t *testing.T) {
	for name, url := range map[string]func(t *testing.T) string{
		"mem":  func(*testing.T) string { return "mem://" },
		"file": func(t *testing.T) string { return "file://" + t.TempDir() },
		"s3":   func(t *testing.T) string { return buckettest.New(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			shuffletest.Run(t, shuffletest.Fixture{New: func(t *testing.T, budget *membudget.Budget) driver.Driver {
				return open(t, buckettest.Open(t, url(t), hasty), budget)
			}})
		})
	}
}

var theID = driver.PartitionID{Job: "job/../x", Dataset: strings.Repeat("long", 100), Index: 3, Attempt: 2}

const theSubs = 40

// write makes a partition of some 3 MB, and gives its bytes by sub-partition.
func write(t *testing.T, d *Driver, id driver.PartitionID) (bySub []string) {
	t.Helper()
	bySub, p := publish(t, d, id)
	if durable, err := p.Close(); err != nil || durable != "blob" {
		t.Fatal(durable, err)
	}
	return bySub
}

func publish(t *testing.T, d *Driver, id driver.PartitionID) (bySub []string, p driver.Partition) {
	t.Helper()
	p, err := d.Create(id, theSubs)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, uint64(id.Index)))
	bySub = make([]string, theSubs)
	for i := range 3 * theSubs {
		sub := i * 7 % theSubs
		data := bytes.Repeat([]byte{byte(i), byte(i >> 1)}, 100*(1+sub*i%100))
		if i%3 == 0 {
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
		}
		b := driver.Block{Sub: sub, Count: i, Data: append(d.cfg.Budget.Chunk(len(data)), data...)}
		if i%5 == 0 {
			if err := p.Stage(&b); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Publish(context.Background(), []driver.Block{b}); err != nil {
			t.Fatal(err)
		}
		bySub[sub] += string(data)
	}
	return bySub, p
}

// read reads a range; blocks of different partitions may come in any order.
func read(d *Driver, lo, hi int, ids ...driver.PartitionID) (string, error) {
	r, err := d.Open(ids, lo, hi)
	if err != nil {
		return "", err
	}
	defer r.Close()
	var got []byte
	for {
		data, _, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return string(got), nil
		}
		if err != nil {
			return string(got), err
		}
		got = append(got, data...)
	}
}

// What one process writes another reads, each range by itself and with few
// requests; and when one of them releases it, it is gone.
func TestProcesses(t *testing.T) {
	s := buckettest.New(t)
	budget := membudget.New(0)
	one, two := open(t, s.Open(t, hasty), budget), open(t, s.Open(t, hasty), membudget.New(64<<20))
	bySub := write(t, one, theID)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget are taken", n)
	}
	s.Requests()
	for lo := range theSubs {
		for _, hi := range []int{lo, lo + 1, theSubs} {
			got, err := read(two, lo, hi, theID)
			if want := strings.Join(bySub[lo:hi], ""); err != nil || got != want {
				t.Fatalf("[%d, %d): got %d bytes, want %d; %v", lo, hi, len(got), len(want), err)
			}
		}
	}
	if n := s.Requests(); n["GET"] > 2*3*theSubs || len(n) != 1 {
		t.Errorf("%v requests for %d reads", n, 3*theSubs)
	}
	sweep := func(want int, owner string, before time.Time, live ...string) {
		t.Helper()
		if n, err := Sweep(context.Background(), s.Open(t, hasty), owner, live, before); err != nil || n != want {
			t.Fatalf("%d jobs swept, want %d: %v", n, want, err)
		}
	}
	sweep(0, nobody, time.Now().Add(time.Hour), theID.Job)
	sweep(0, nobody, time.Now().Add(-time.Hour))
	sweep(0, "another group", time.Now().Add(time.Hour))
	if _, err := read(one, 0, 1, theID); err != nil {
		t.Errorf("after a sweep that is to leave it: %v", err)
	}
	two.Release(theID)
	if err := two.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := read(one, 0, 1, theID)
	wantPartitionError(t, err)
	other := theID
	other.Attempt++
	write(t, one, other)
	sweep(1, nobody, time.Now().Add(time.Hour), "another")
	if _, err := read(one, 0, 1, other); err == nil {
		t.Error("after a sweep the partition of a dead job is readable")
	}
	other.Attempt++
	write(t, one, other)
	other.Attempt++
	write(t, open(t, s.Open(t, hasty), membudget.New(0)), other) // another process, which says no more
	one.ReleaseJob(theID.Job)
	if err := one.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t, hasty).List(context.Background(), "", func(o bucket.Object) error {
		t.Errorf("%s is left", o.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func wantPartitionError(t *testing.T, err error) {
	t.Helper()
	var pe *driver.PartitionError
	if !errors.As(err, &pe) || pe.Partition != theID {
		t.Errorf("got %v, want a PartitionError of %v", err, theID)
	}
}

// Two processes that were given the same attempt don't mix.
func TestTwins(t *testing.T) {
	s := buckettest.New(t)
	one, two := open(t, s.Open(t, hasty), membudget.New(0)), open(t, s.Open(t, hasty), membudget.New(0))
	bySub, p := publish(t, one, theID)
	_, q := publish(t, two, theID)
	if _, err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Close(); err == nil {
		t.Error("both succeed")
	}
	q.Abort(nil)
	if err := two.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, err := read(one, 0, theSubs, theID); err != nil || got != strings.Join(bySub, "") {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// A store that fails now and then is only slower. Answers that get lost are not
// taken for another's work.
func TestBadStore(t *testing.T) {
	s := buckettest.New(t)
	opts := hasty
	opts.Tries = 20
	d := open(t, s.Open(t, opts), membudget.New(64<<20))
	var n atomic.Int64
	for _, f := range []buckettest.Fault{
		{Refuse: 500}, {Refuse: http.StatusServiceUnavailable}, {Swallow: true}, {CutAfter: 1}, {CutAfter: 50_000}, {Slow: time.Millisecond},
	} {
		id := theID
		id.Index = int(n.Load())
		s.Misbehave(func(r *http.Request) buckettest.Fault {
			if n.Add(1)%3 == 1 || f.CutAfter > 1 || f.Slow > 0 {
				return f
			}
			return buckettest.Fault{}
		})
		bySub := write(t, d, id)
		if got, err := read(d, 0, theSubs, id); err != nil || got != strings.Join(bySub, "") {
			t.Errorf("%+v: got %d bytes, %v", f, len(got), err)
		}
	}
}

// A store that is away is no reason to make a partition again.
func TestUnreachable(t *testing.T) {
	s := buckettest.New(t)
	budget := membudget.New(64 << 20)
	d := open(t, s.Open(t, hasty), budget)
	write(t, d, theID)
	other := theID
	other.Index++
	_, p := publish(t, d, other)
	for _, f := range []buckettest.Fault{{Refuse: 500}, {Refuse: 403}, {Swallow: true}, {Hang: true}} {
		s.Misbehave(func(*http.Request) buckettest.Fault { return f })
		got, err := read(d, 0, 1, theID)
		var pe *driver.PartitionError
		if err == nil || errors.As(err, &pe) {
			t.Errorf("read with %+v: %d bytes, %v; %v", f, len(got), err, s.Requests())
		}
	}
	s.Misbehave(func(*http.Request) buckettest.Fault { return buckettest.Fault{Refuse: 500} })
	if _, err := p.Close(); err == nil {
		t.Error("a partition that didn't arrive was closed")
	}
	p.Abort(nil)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget are taken", n)
	}
	d.Release(theID)
	// Deleting goes on once the store is back, or is given up at the end.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := d.Close(ctx); err == nil {
		t.Error("what could not be deleted is not told")
	}
	s.Misbehave(nil)
}

// Whatever happens to an object, a read gives what was written or an error.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	budget := membudget.New(64 << 20)
	d := open(t, buckettest.Open(t, "file://"+dir, hasty), budget)
	want := strings.Join(write(t, d, theID), "")
	var path string
	if err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			path = p
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reader := open(t, buckettest.Open(t, "file://"+dir, hasty), budget)
	check := func(what string, object []byte) {
		t.Helper()
		if err := os.WriteFile(path, object, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read(reader, 0, theSubs, theID)
		wantPartitionError(t, err)
		if !strings.HasPrefix(want, got) {
			t.Fatalf("%s: wrong bytes before the error", what)
		}
	}
	check("empty", nil)
	check("longer", append(bytes.Clone(whole), 0))
	for n := len(whole) - 200; n < len(whole); n++ {
		check(fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		at, bit := rng.IntN(len(whole)), rng.IntN(8)
		if i < 100 {
			at = rng.IntN(2000) // the head, more likely
		}
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << bit
		check(fmt.Sprintf("bit %d of byte %d flipped", bit, at), flipped)
	}
	// A whole and good object of another attempt.
	other := theID
	other.Attempt++
	write(t, d, other)
	moved, err := os.ReadFile(strings.TrimSuffix(path, ".2.part") + ".3.part")
	if err != nil {
		t.Fatal(err)
	}
	check("another attempt's", moved)
	if n := budget.Used(); n != 0 {
		t.Errorf("%d bytes of the budget are taken", n)
	}
}

func FuzzParseHead(f *testing.F) {
	f.Add(appendHead(nil, &head{id: theID, subs: 4, nonce: 5, size: 300_000, marks: []mark{{0, 0}, {2, 100_000}}}))
	f.Add(appendHead(nil, &head{id: driver.PartitionID{}, subs: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b); n >= prefixLen+sumLen { // or nothing would get past the sum
			copy(b[n-sumLen:], resum(b[:n-sumLen]))
		}
		h, err := parseHead(b)
		if err != nil {
			return
		}
		for lo := range min(h.subs, 10) {
			if from, to := h.span(lo, lo+1); from < 0 || from > to || to > h.size {
				t.Fatalf("span [%d, %d) of %d", from, to, h.size)
			}
		}
		again, err := parseHead(appendHead(nil, h))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(h) {
			t.Fatalf("%v: %v became %v", err, h, again)
		}
	})
}

// resum is the checksum that the bytes of a head should have.
func resum(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(b))
}
