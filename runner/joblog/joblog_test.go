package joblog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, dir string, max int64) *Store {
	t.Helper()
	s, err := New(dir, Options{MaxBytes: max})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func add(t *testing.T, s *Store, job string, level Level, texts ...string) {
	t.Helper()
	entries := make([]Entry, len(texts))
	for i, x := range texts {
		entries[i] = Entry{Time: time.Unix(1, 0), Level: level, Origin: "w", Text: x}
	}
	if err := s.Append(job, entries...); err != nil {
		t.Fatal(err)
	}
}

func readAll(t *testing.T, s *Store, job string, after uint64) []Entry {
	t.Helper()
	r, err := s.Open(job, after)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []Entry
	for {
		e, err := r.Read(7)
		if err != nil {
			t.Fatal(err)
		}
		if len(e) == 0 {
			return out
		}
		out = append(out, e...)
	}
}

// Entries come back in order from any position, also after a restart and with
// every kind of text.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	if got := readAll(t, s, "j", 0); len(got) != 0 {
		t.Fatalf("an empty log holds %v", got)
	}
	add(t, s, "j", Info, "one", "two\nlines", `quo"te`, "nul\x00 \xff")
	s.Finish("j")
	add(t, s, "j", Failure, strings.Repeat("é", MaxText))
	s.Close()
	s = open(t, dir, 0)
	add(t, s, "j", Debug, "after the restart")
	got := readAll(t, s, "j", 0)
	if len(got) != 6 || got[1].Text != "two\nlines" || got[2].Text != `quo"te` || got[4].Level != Failure {
		t.Fatalf("%d entries: %.200v", len(got), got)
	}
	for i, e := range got {
		if e.N != uint64(i+1) || e.Missing != 0 {
			t.Errorf("entry %d has number %d, missing %d", i, e.N, e.Missing)
		}
	}
	if !strings.HasSuffix(got[4].Text, "bytes cut)") || len(got[4].Text) > MaxText+40 {
		t.Errorf("a long text must be cut, not %d bytes", len(got[4].Text))
	}
	if got := readAll(t, s, "j", 4); len(got) != 2 || got[0].N != 5 {
		t.Errorf("from 5 on: %.100v", got)
	}
	if last, err := s.Last("j"); err != nil || last != 6 {
		t.Errorf("last %d %v", last, err)
	}
}

// A log that outgrows its bound keeps its beginning, its end and what matters
// in between, and says what is missing.
func TestBound(t *testing.T) {
	const max = 256 << 10
	dir := t.TempDir()
	s := open(t, dir, max)
	const n = 20_000
	for i := range n / 10 {
		var batch []Entry
		for j := range 10 {
			e := Entry{Time: time.Unix(1, 0), Level: Info, Text: fmt.Sprintf("message %d %s", i*10+j+1, strings.Repeat("x", 40))}
			if (i*10+j)%1000 == 500 {
				e.Level = Warn
			}
			batch = append(batch, e)
		}
		if err := s.Append("j", batch...); err != nil {
			t.Fatal(err)
		}
	}
	got := readAll(t, s, "j", 0)
	if got[0].N != 1 || got[len(got)-1].N != n {
		t.Errorf("kept %d … %d", got[0].N, got[len(got)-1].N)
	}
	next, warnings := uint64(1), 0
	for _, e := range got {
		if e.Missing != e.N-next {
			t.Fatalf("entry %d: %d missing, not %d", e.N, e.Missing, e.N-next)
		}
		if !strings.HasPrefix(e.Text, fmt.Sprintf("message %d ", e.N)) {
			t.Fatalf("entry %d is %q", e.N, e.Text)
		}
		next = e.N + 1
		if e.Level == Warn {
			warnings++
		}
	}
	if warnings != n/1000 {
		t.Errorf("%d of %d warnings are kept", warnings, n/1000)
	}
	var size int64
	files, err := os.ReadDir(filepath.Join(dir, "j"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, _ := f.Info()
		size += info.Size()
	}
	if size > max+max/segmentsPerLog {
		t.Errorf("the log takes %d bytes of %d", size, max)
	}
	s.Close()
	if again := readAll(t, open(t, dir, max), "j", 0); len(again) != len(got) {
		t.Errorf("%d entries after a restart, %d before", len(again), len(got))
	}
}

// What is told all at once doesn't outgrow the bound, and is numbered as ever.
func TestBoundAtOnce(t *testing.T) {
	const bound = 1 << 20
	dir := t.TempDir()
	s := open(t, dir, bound)
	texts := make([]string, 2000)
	for i := range texts {
		texts[i] = fmt.Sprintf("%d %s", i+1, strings.Repeat("x", 4<<10))
	}
	add(t, s, "j", Info, texts...)
	var total int64
	if err := filepath.Walk(dir, func(_ string, i os.FileInfo, err error) error {
		if err == nil && !i.IsDir() {
			total += i.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if total > bound {
		t.Errorf("%d bytes are kept, at most %d are wanted", total, bound)
	}
	got := readAll(t, s, "j", 0)
	if len(got) == 0 || got[0].N != 1 || got[len(got)-1].N != uint64(len(texts)) {
		t.Fatalf("%d entries are kept, without the first or the last", len(got))
	}
	for _, e := range got {
		if !strings.HasPrefix(e.Text, fmt.Sprint(e.N, " ")) {
			t.Errorf("entry %d is %.10q", e.N, e.Text)
		}
	}
}

// Errors without end don't outgrow the bound either.
func TestBoundOfImportant(t *testing.T) {
	const max = 64 << 10
	dir := t.TempDir()
	s := open(t, dir, max)
	for range 200 {
		add(t, s, "j", Error, strings.Repeat("e", 4000))
	}
	var size int64
	_ = filepath.Walk(dir, func(_ string, info os.FileInfo, _ error) error {
		if !info.IsDir() {
			size += info.Size()
		}
		return nil
	})
	if size > max+max/segmentsPerLog+8000 {
		t.Errorf("the log takes %d bytes of %d", size, max)
	}
	if got := readAll(t, s, "j", 0); got[len(got)-1].N != 200 {
		t.Errorf("the newest is %d", got[len(got)-1].N)
	}
}

// A torn last line is cut off, whatever of it was written.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	add(t, s, "j", Info, "whole", "torn")
	s.Close()
	file := filepath.Join(dir, "j", fmt.Sprintf("%020d.log", 1))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	whole := strings.Index(string(b), "\n") + 1
	for cut := whole; cut < len(b); cut++ {
		if err := os.WriteFile(file, b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, 0)
		add(t, s, "j", Info, "next")
		got := readAll(t, s, "j", 0)
		if len(got) != 2 || got[0].Text != "whole" || got[1].Text != "next" || got[1].N != 2 {
			t.Fatalf("cut at %d: %v", cut, got)
		}
		s.Close()
	}
}

// Readers follow writers: nothing is lost, doubled or out of order.
func TestFollow(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	const writers, each = 4, 300
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := s.Append("j", Entry{Level: Info, Origin: fmt.Sprint(w), Text: fmt.Sprint(i)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r, err := s.Open("j", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := map[string]int{}
	for n := uint64(1); n <= writers*each; {
		changed := r.Changed()
		entries, err := r.Read(50)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			<-changed
		}
		for _, e := range entries {
			if e.N != n || e.Text != fmt.Sprint(next[e.Origin]) {
				t.Fatalf("entry %d of %s is %s, want %d, %d", e.N, e.Origin, e.Text, n, next[e.Origin])
			}
			next[e.Origin]++
			n++
		}
	}
	wg.Wait()
}

// A name that could be a path elsewhere is no log.
func TestNames(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a\x00", "a\n", strings.Repeat("x", 300)} {
		if err := s.Append(name, Entry{Level: Info, Text: "x"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("append to %q: %v", name, err)
		}
		if _, err := s.Open(name, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("open %q: %v", name, err)
		}
	}
}

// What a process tells a second time is dropped, also after a restart.
func TestToldTwice(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	tell := func(source string, seq uint64, text string) {
		t.Helper()
		if err := s.Append("j", Entry{Time: time.Unix(1, 0), Level: Info, Source: source, Seq: seq, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	tell("a", 1, "a1")
	tell("b", 1, "b1")
	tell("a", 3, "a3")
	tell("a", 3, "again")
	if err := s.Append("j", Entry{Level: Info, Source: "c", Seq: 9, Text: "c9"}, Entry{Level: Info, Source: "c", Seq: 9, Text: "c9 too"}, Entry{Level: Info, Text: "nobody"}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, 0)
	tell("a", 2, "late")
	tell("c", 9, "again")
	tell("b", 2, "b2")
	tell("a", 4, "a4")
	var got []string
	for _, e := range readAll(t, s, "j", 0) {
		got = append(got, e.Text)
	}
	if want := "a1 b1 a3 c9 c9 too nobody b2 a4"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
}
