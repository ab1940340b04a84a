package localdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"trestle/internal/membudget"
	"trestle/shuffle/driver"
	"trestle/shuffle/shuffletest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDriver(t *testing.T) {
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync=%t", sync), func(t *testing.T) {
			shuffletest.Run(t, shuffletest.Fixture{
				New: func(t *testing.T, budget *membudget.Budget) driver.Driver {
					d, err := New(t.TempDir(), Config{Budget: budget, Sync: sync})
					if err != nil {
						t.Fatal(err)
					}
					return d
				},
			})
		})
	}
}

var theID = driver.PartitionID{Job: "job/../x", Dataset: strings.Repeat("long", 100), Index: 3, Attempt: 2}

// writeFile makes a driver with one finished partition on disk, and gives all
// its bytes.
func writeFile(t *testing.T, dir string) (path string, want []byte) {
	t.Helper()
	budget := membudget.New(0)
	d, err := New(dir, Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Create(theID, 4)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []driver.Block
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		data := bytes.Repeat([]byte{byte(i), byte(i >> 1)}, 100+i)
		if i%2 == 0 {
			for j := range data {
				data[j] = byte(rng.Uint32())
			}
		}
		blocks = append(blocks, driver.Block{Sub: i / 10, Count: i, Data: append(budget.Chunk(len(data)), data...)})
		want = append(want, data...)
	}
	if err := p.Publish(context.Background(), blocks); err != nil {
		t.Fatal(err)
	}
	if durable, err := p.Close(); err != nil || durable != "disk" {
		t.Fatal(durable, err)
	}
	return d.path(theID), want
}

// readAll reads the partition in a new process, so to say.
func readAll(dir string) ([]byte, error) {
	d, err := New(dir, Config{Budget: membudget.New(0)})
	if err != nil {
		return nil, err
	}
	d.Recover()
	r, err := d.Open([]driver.PartitionID{theID}, 0, 4)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var got []byte
	for {
		data, _, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, data...)
	}
}

func TestRecover(t *testing.T) {
	dir := t.TempDir()
	path, want := writeFile(t, dir)
	torn := strings.TrimSuffix(path, finishedSuffix) + "x" + unfinishedSuffix
	if err := os.WriteFile(torn, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(dir)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
	if _, err := os.Stat(torn); err == nil {
		t.Fatal("an unfinished file must be removed")
	}
	d, err := New(dir, Config{Budget: membudget.New(0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(theID, 4); err == nil {
		t.Fatal("an id that an earlier process finished can't be created again")
	}
	if ids := d.Recover(); len(ids) != 1 || ids[0] != theID {
		t.Fatalf("recovered %v", ids)
	}
	d.ReleaseJob(theID.Job)
	if _, err := os.Stat(path); err == nil {
		t.Fatal("the file must be gone with its job")
	}
}

// Whatever happens to a file, a read gives what was written or an error.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path, want := writeFile(t, dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, file []byte) {
		t.Helper()
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAll(dir)
		var pe *driver.PartitionError
		if !errors.As(err, &pe) || pe.Partition != theID {
			t.Fatalf("%s: got %d bytes (%t), %v; want a PartitionError", what, len(got), bytes.Equal(got, want), err)
		}
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("%s: wrong bytes before the error", what)
		}
	}
	for n := max(0, len(whole)-4096); n < len(whole); n++ {
		check(fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 4096 + 500 {
		at, bit := len(whole)-1-i, rng.IntN(8)
		if i >= 4096 || at < 0 {
			at = rng.IntN(len(whole))
		}
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << bit
		check(fmt.Sprintf("bit %d of byte %d flipped", bit, at), flipped)
	}
	zeroed := bytes.Clone(whole)
	clear(zeroed[:4096]) // as after a lost write
	check("zeroed", zeroed)
}

// Truncation is noticed by the process that wrote the file, too.
func TestDamageInProcess(t *testing.T) {
	dir := t.TempDir()
	budget := membudget.New(0)
	d, err := New(dir, Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := d.Create(theID, 1)
	b := driver.Block{Count: 1, Data: append(budget.Chunk(5), "hello"...)}
	if err := p.Publish(context.Background(), []driver.Block{b}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.path(theID), 3); err != nil {
		t.Fatal(err)
	}
	r, err := d.Open([]driver.PartitionID{theID}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var pe *driver.PartitionError
	if _, _, err := r.Next(context.Background()); !errors.As(err, &pe) {
		t.Fatalf("got %v", err)
	}
}

// fullDisk fails after so many bytes, as a full disk does: in the midst.
type fullDisk struct {
	file
	left *int
}

func (f fullDisk) WriteAt(b []byte, off int64) (int, error) {
	if len(b) > *f.left {
		n, _ := f.file.WriteAt(b[:*f.left], off)
		*f.left = 0
		return n, syscall.ENOSPC
	}
	*f.left -= len(b)
	return f.file.WriteAt(b, off)
}

func TestDiskFull(t *testing.T) {
	for room := 0; room < 70_000; room += 997 {
		dir := t.TempDir()
		budget := membudget.New(0)
		d, err := New(dir, Config{Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		left := room
		d.create = func(path string) (file, error) {
			f, err := createFile(path)
			return fullDisk{f, &left}, err
		}
		p, _ := d.Create(theID, 1)
		data := make([]byte, 70_000)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		b := driver.Block{Count: 1, Data: append(budget.Chunk(len(data)), data...)}
		err = p.Stage(&b)
		if err == nil {
			err = p.Publish(context.Background(), []driver.Block{b})
		}
		if err == nil {
			_, err = p.Close()
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir+" is full") {
			t.Fatalf("with room for %d: %v", room, err)
		}
		p.Abort(err)
		if _, err := d.Open([]driver.PartitionID{theID}, 0, 1); err == nil {
			t.Fatal("nothing may be readable")
		}
		if names, _ := os.ReadDir(d.jobDir(theID.Job)); len(names) != 0 || budget.Used() != 0 {
			t.Fatalf("left: %v, %d bytes", names, budget.Used())
		}
	}
}

// That the process has too many open files says nothing of the partition: the
// reader waits for its turn, and if that doesn't come the error is another.
func TestTooManyOpenFiles(t *testing.T) {
	dir := t.TempDir()
	_, want := writeFile(t, dir)
	defer func(pause time.Duration) { openToRead, openPause = os.Open, pause }(openPause)
	openPause = time.Millisecond
	refusals := 0
	openToRead = func(path string) (*os.File, error) {
		if refusals > 0 {
			refusals--
			return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
		}
		return os.Open(path)
	}
	d, err := New(dir, Config{Budget: membudget.New(0)})
	if err != nil {
		t.Fatal(err)
	}
	refusals = openTries // as many as Recover makes: it must not take the file for damaged
	if ids := d.Recover(); len(ids) != 0 {
		t.Fatalf("recovered %v without reading it", ids)
	}
	refusals = 3
	if ids := d.Recover(); len(ids) != 1 {
		t.Fatalf("recovered %v", ids)
	}
	read := func() ([]byte, error) {
		r, err := d.Open([]driver.PartitionID{theID}, 0, 4)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		data, _, err := r.Next(context.Background())
		return bytes.Clone(data), err
	}
	refusals = 3
	if got, err := read(); err != nil || !bytes.HasPrefix(want, got) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	refusals = openTries
	if _, err := read(); !errors.Is(err, syscall.EMFILE) || len(driver.LostIn(err)) != 0 {
		t.Errorf("got %v, which must not count as a lost partition", err)
	}
}

// What is held is told of: what is closed, in memory or on disk, and not
// released.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir)
	budget := membudget.New(1 << 20)
	d, err := New(dir, Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	d.Recover()
	var ids []driver.PartitionID
	for i := range 3 {
		id := driver.PartitionID{Job: "j", Dataset: "d", Index: i}
		p, err := d.Create(id, 1)
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			if _, err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, id)
	}
	d.Release(ids[0])
	held := d.Held()
	if len(held) != 2 || !slices.Contains(held, theID) || !slices.Contains(held, ids[1]) {
		t.Errorf("held %v, want %v and %v", held, theID, ids[1])
	}
	d.ReleaseJob(theID.Job)
	d.ReleaseJob("j")
	d.ReleaseJob("never heard of")
	if held := d.Held(); len(held) != 0 {
		t.Errorf("held %v", held)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
