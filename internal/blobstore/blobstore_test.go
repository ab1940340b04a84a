package blobstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := s.Put([]byte("one"), nil, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if hashes[0] != hashes[2] || hashes[0] == hashes[1] {
		t.Fatalf("hashes %v", hashes)
	}
	for hash, want := range map[string]string{hashes[0]: "one", hashes[1]: ""} {
		if got, err := s.Get(hash); err != nil || string(got) != want {
			t.Errorf("get %s: %q, %v", hash, got, err)
		}
	}
	for _, name := range []string{"", "../blob", HashOf([]byte("two")), "new-1"} {
		if _, err := s.Get(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: %v", name, err)
		}
	}

	// A flipped bit is found, and mended by the next Put.
	if err := os.WriteFile(filepath.Join(dir, hashes[0]), []byte("onE"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(hashes[0]); !errors.Is(err, ErrDamaged) {
		t.Errorf("get a damaged blob: %v", err)
	}
	if _, err := s.Put([]byte("one")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(hashes[0]); err != nil || string(got) != "one" {
		t.Errorf("get: %q, %v", got, err)
	}

	if err := os.WriteFile(filepath.Join(dir, "new-left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(func(hash string) bool { return hash == hashes[0] }); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != hashes[0] {
		t.Errorf("left: %v, %v", left, err)
	}
}
