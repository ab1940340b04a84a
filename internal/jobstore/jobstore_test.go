package jobstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func put(t *testing.T, s *Store, id string) {
	t.Helper()
	_, err := s.Put(id, map[Part][]byte{Pipeline: []byte("pipe\nline"), Run: []byte("hunter2")})
	if err != nil {
		t.Fatal(err)
	}
}

// What is stored comes back; what holds secrets is gone after the job's end.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a-1")
	for part, want := range map[Part]string{Pipeline: "pipe\nline", Run: "hunter2"} {
		if b, err := s.Get("a-1", part); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", part, b, err)
		}
	}
	for range 2 {
		if err := s.DropRun("a-1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get("a-1", Run); !errors.Is(err, ErrNotFound) {
		t.Errorf("run after the end: %v", err)
	}
	if b, err := s.Get("a-1", Pipeline); err != nil || string(b) != "pipe\nline" {
		t.Errorf("pipeline after the end: %q %v", b, err)
	}
	for _, id := range []string{"", "../a-1", "b", "a\x00", ".a"} {
		if _, err := s.Get(id, Run); !errors.Is(err, ErrNotFound) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// A damaged file is an error, never other content and never a panic.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a")
	path := filepath.Join(dir, "a.job")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for _, damaged := range [][]byte{whole[:i], append(append(append([]byte{}, whole[:i]...), whole[i]^0x20), whole[i+1:]...)} {
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if b, err := s.Get("a", Pipeline); err == nil && string(b) != "pipe\nline" {
				t.Fatalf("damage at %d gave %q", i, b)
			}
		}
	}
}

// Unknown jobs are swept, once they can't be on their way in any more.
func TestSweep(t *testing.T) {
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "known")
	put(t, s, "gone")
	known := func(id string) bool { return id == "known" }
	if removed, err := s.Sweep(known, time.Now().Add(-time.Hour)); err != nil || len(removed) != 0 {
		t.Errorf("too early: %v %v", removed, err)
	}
	if removed, err := s.Sweep(known, time.Now().Add(time.Hour)); err != nil || len(removed) != 1 || removed[0] != "gone" {
		t.Errorf("swept %v %v", removed, err)
	}
}
