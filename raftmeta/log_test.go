package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func accept(id string) catalog.Record {
	return &catalog.JobAccepted{Job: catalog.JobID(id), Name: strings.Repeat("n", 40), Plan: "p", KeyGroups: 1, Graph: &jobgraph.Graph{}}
}

// open opens the log and replays it.
func open(t testing.TB, dir string) (*Log, []string, error) {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var jobs []string
	err = l.Replay(context.Background(), func(r catalog.Record) error {
		jobs = append(jobs, string(r.JobID()))
		return nil
	})
	return l, jobs, err
}

// write makes a log with these batches and closes it.
func write(t testing.TB, dir string, batches ...[]string) {
	t.Helper()
	l, _, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		var records []catalog.Record
		for _, id := range b {
			records = append(records, accept(id))
		}
		if err := l.Append(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// read replays a log and closes it.
func read(t testing.TB, dir string) ([]string, error) {
	t.Helper()
	l, jobs, err := open(t, dir)
	if cerr := l.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	return jobs, err
}

func TestAppendedIsReplayed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, []string{"a", "b"}, []string{"c"})
	write(t, dir, []string{"d"})
	jobs, err := read(t, dir)
	if err != nil || !slices.Equal(jobs, []string{"a", "b", "c", "d"}) {
		t.Fatalf("%v, %v", jobs, err)
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := t.TempDir()
	l, _, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 20 {
				if err := l.Append(t.Context(), accept(fmt.Sprintf("%d.%02d", i, k)), accept(fmt.Sprintf("%d.%02d+", i, k))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	batches := l.batch
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	jobs, err := read(t, dir)
	if err != nil || len(jobs) != 320 {
		t.Fatalf("%d records, %v", len(jobs), err)
	}
	for i := range 8 { // each appender's in its order, each Append's together
		var own []string
		for at, id := range jobs {
			if strings.HasPrefix(id, fmt.Sprintf("%d.", i)) {
				own = append(own, id)
				if strings.HasSuffix(id, "+") && jobs[at-1]+"+" != id {
					t.Errorf("%s follows %s", id, jobs[at-1])
				}
			}
		}
		if !slices.IsSorted(own) {
			t.Errorf("out of order: %v", own)
		}
	}
	t.Logf("160 appends in %d batches", batches)
}

// Whatever a crash leaves of the last batch, all that came before is there,
// the batch is there entirely or not at all, and the log goes on.
func TestTornAnywhere(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, []string{"a"}, []string{"b"})
	file := fileName(dir, 1)
	before := size(t, file)
	write(t, dir, []string{"c", "d", "e", "f"})
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tear := func(name string, data []byte, want ...string) {
		t.Helper()
		torn := t.TempDir()
		if err := os.WriteFile(fileName(torn, 1), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if jobs, err := read(t, torn); err != nil || !slices.Equal(jobs, want) {
			t.Errorf("%s: %v, %v; want %v", name, jobs, err, want)
		}
		write(t, torn, []string{"z"})
		if jobs, err := read(t, torn); err != nil || !slices.Equal(jobs, append(want, "z")) {
			t.Errorf("%s, continued: %v, %v", name, jobs, err)
		}
	}
	for cut := before; cut < len(whole); cut += 3 {
		tear(fmt.Sprintf("cut at %d", cut), whole[:cut], "a", "b")
	}
	tear("not cut", whole, "a", "b", "c", "d", "e", "f")
	for sector := 0; sector < len(whole); sector += sectorBytes { // written, but for one sector
		lo, hi := max(sector, before), min(sector+sectorBytes, len(whole))
		if lo >= hi {
			continue
		}
		data := slices.Clone(whole)
		clear(data[lo:hi])
		tear(fmt.Sprintf("without sector %d", sector), data, "a", "b")
	}
	tear("only its length", append(slices.Clone(whole[:before]), make([]byte, len(whole)-before)...), "a", "b")
}

// Bits that flip after they were written are found, wherever they are; and the
// error says where.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, []string{"a"}, []string{"b", "c"}, []string{"d"})
	whole, err := os.ReadFile(fileName(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		data := slices.Clone(whole)
		data[at] ^= 0x10
		flipped := t.TempDir()
		if err := os.WriteFile(fileName(flipped, 1), data, 0o600); err != nil {
			t.Fatal(err)
		}
		jobs, err := read(t, flipped)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.File != fileName(flipped, 1) || corrupt.Offset > int64(at) {
			t.Fatalf("bit flipped at %d: %v, %v", at, jobs, err)
		}
	}
}

func TestCompact(t *testing.T) {
	dir := t.TempDir()
	l, _, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	state := catalog.NewState()
	put := func(l *Log, r catalog.Record) {
		t.Helper()
		if err := errors.Join(state.Apply(r), l.Append(t.Context(), r)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		put(l, accept(id))
	}
	put(l, &catalog.JobForgotten{Job: "b"})
	if err := l.Compact(t.Context(), state.Snapshot); err != nil || l.number != 1 {
		t.Fatalf("a small log was compacted: file %d, %v", l.number, err)
	}
	l.shrinkAt = 0
	if err := l.Compact(t.Context(), state.Snapshot); err != nil || l.number != 2 {
		t.Fatalf("file %d, %v", l.number, err)
	}
	put(l, accept("d"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.log*")); err != nil || len(left) != 1 {
		t.Errorf("files %v, %v", left, err)
	}
	// A crash in the middle leaves the old file beside an unfinished one, or
	// beside the new one.
	for _, name := range []string{fileName(dir, 1), fileName(dir, 3) + ".new"} {
		if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	again := catalog.NewState()
	if err := l.Replay(t.Context(), again.Apply); err != nil {
		t.Fatal(err)
	}
	if again.Hash() != state.Hash() {
		t.Errorf("compacted:\n%s\nwas\n%s", again, state)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	if err := l.Append(t.Context(), accept("a")); err == nil {
		t.Error("appended before Replay")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), accept("a")); err == nil {
		t.Error("appended after Close")
	}
	l, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestGolden opens a journal that was written by version 1.
func TestGolden(t *testing.T) {
	golden := filepath.Join("testdata", "journal.v1")
	if os.Getenv("TRESTLE_GOLDEN") == "write" {
		dir := t.TempDir()
		write(t, dir, []string{"a", "b"}, []string{"c"})
		data, err := os.ReadFile(fileName(dir, 1))
		if err := errors.Join(err, os.MkdirAll("testdata", 0o755), os.WriteFile(golden, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(fileName(dir, 1), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if jobs, err := read(t, dir); err != nil || !slices.Equal(jobs, []string{"a", "b", "c"}) {
		t.Errorf("%v, %v", jobs, err)
	}
}

func size(t *testing.T, file string) int {
	t.Helper()
	stat, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return int(stat.Size())
}

func BenchmarkAppend(b *testing.B) {
	l, _, err := open(b, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	r := &catalog.TaskFinished{Job: "j", Task: catalog.TaskID{Stage: "s1"}, Outputs: []catalog.Output{{Dataset: "d1", Sketch: catalog.SketchOf(make([]int64, 128))}}}
	for b.Loop() {
		if err := l.Append(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
