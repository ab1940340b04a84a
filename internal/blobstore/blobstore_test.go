package blobstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"trestle/internal/bucket"
	"trestle/internal/bucket/buckettest"
)

func openDir(t *testing.T, dir string) *Dir {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Both kinds of store do the same. Damage puts other bytes in a blob's place.
func TestStores(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		testStore(t, openDir(t, dir), func(hash string) error {
			return os.WriteFile(filepath.Join(dir, hash), []byte("onE"), 0o600)
		})
	})
	t.Run("bucket", func(t *testing.T) {
		dir := t.TempDir()
		b := buckettest.Open(t, "file://"+dir, bucket.Options{})
		testStore(t, In(b, owner("one")), func(hash string) error {
			return os.WriteFile(filepath.Join(dir, "blobs", "one", hash), []byte("onE"), 0o600)
		})
	})
	t.Run("s3", func(t *testing.T) {
		testStore(t, In(buckettest.New(t).Open(t, bucket.Options{}), owner("one")), nil)
	})
}

func testStore(t *testing.T, s Store, damage func(hash string) error) {
	ctx := context.Background()
	hashes, err := s.Put(ctx, []byte("one"), nil, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if hashes[0] != hashes[2] || hashes[0] == hashes[1] {
		t.Fatalf("hashes %v", hashes)
	}
	want := func(hash, want string) {
		t.Helper()
		if got, err := s.Get(ctx, hash); err != nil || string(got) != want {
			t.Errorf("get %s: %q, %v", hash, got, err)
		}
		if has, err := s.Has(ctx, hash); err != nil || !has {
			t.Errorf("has %s: %t, %v", hash, has, err)
		}
	}
	want(hashes[0], "one")
	want(hashes[1], "")
	for _, name := range []string{"", "../blob", HashOf([]byte("two")), "new-1"} {
		if _, err := s.Get(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("get %q: %v", name, err)
		}
		if has, err := s.Has(ctx, name); err != nil || has {
			t.Errorf("has %q: %t, %v", name, has, err)
		}
	}
	if damage != nil { // it is found, and mended by the next Put
		if err := damage(hashes[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, hashes[0]); !errors.Is(err, ErrDamaged) {
			t.Errorf("get a damaged blob: %v", err)
		}
		if _, err := s.Put(ctx, []byte("one")); err != nil {
			t.Fatal(err)
		}
		want(hashes[0], "one")
	}
	err = s.Sweep(ctx, func(hash string, put time.Time) bool {
		if d := time.Since(put); d > time.Minute || d < -time.Minute {
			t.Errorf("%s was put %v ago", hash, d)
		}
		return hash == hashes[0]
	})
	if err != nil {
		t.Fatal(err)
	}
	want(hashes[0], "one")
	if _, err := s.Get(ctx, hashes[1]); !errors.Is(err, ErrNotFound) {
		t.Errorf("get what was swept: %v", err)
	}
}

func owner(name string) func() (string, error) {
	return func() (string, error) { return name, nil }
}

// Who shares a bucket with others has blobs of its own in it, and sweeps no
// others'. Before it is known who it is, it does nothing.
func TestOwners(t *testing.T) {
	ctx := t.Context()
	b := buckettest.Open(t, "file://"+t.TempDir(), bucket.Options{})
	one, two := In(b, owner("one")), In(b, owner("two"))
	hashes, err := one.Put(ctx, []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	if has, err := two.Has(ctx, hashes[0]); err != nil || has {
		t.Errorf("another's: %t, %v", has, err)
	}
	if err := two.Sweep(ctx, func(string, time.Time) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if got, err := one.Get(ctx, hashes[0]); err != nil || string(got) != "content" {
		t.Errorf("after another's sweep: %q, %v", got, err)
	}
	unknown := errors.New("nobody yet")
	nobody := In(b, func() (string, error) { return "", unknown })
	if _, err := nobody.Put(ctx, []byte("content")); !errors.Is(err, unknown) {
		t.Errorf("put by nobody: %v", err)
	}
	if err := nobody.Sweep(ctx, func(string, time.Time) bool { return false }); !errors.Is(err, unknown) {
		t.Errorf("sweep by nobody: %v", err)
	}
}

// A blob that is made young while a sweep looks at it stays, or is known to be
// gone.
func TestRenewWhileSweeping(t *testing.T) {
	s := openDir(t, t.TempDir())
	hashes, err := s.Put(t.Context(), []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	renewed := make(chan bool, 1)
	err = s.Sweep(t.Context(), func(string, time.Time) bool {
		go func() {
			has, _ := s.Renew(hashes[0])
			renewed <- has
		}()
		select {
		case has := <-renewed: // it was not held up
			renewed <- has
		case <-time.After(50 * time.Millisecond):
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	if said, _ := s.Has(t.Context(), hashes[0]); <-renewed != said {
		t.Errorf("Renew said that it is there: %t; it is: %t", !said, said)
	}
}

// What came half is gone with the next start; secrets are for the owner alone.
func TestDirFiles(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	hashes, err := s.Put(context.Background(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(10); err != nil {
		t.Fatal(err)
	}
	openDir(t, dir)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != hashes[0] {
		t.Fatalf("left: %v, %v", left, err)
	}
	if info, err := left[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A blob that is put again is young again, so that no sweep takes it for one
// that nobody wants.
func TestPutAgain(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	hashes, _ := s.Put(context.Background(), []byte("one"))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, hashes[0]), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(context.Background(), []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(context.Background(), func(_ string, put time.Time) bool { return time.Since(put) < time.Minute }); err != nil {
		t.Fatal(err)
	}
	if has, _ := s.Has(context.Background(), hashes[0]); !has {
		t.Error("it was swept")
	}
}

// A blob that comes from elsewhere is kept only if it is what it should be.
func TestReceive(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	receive := func(content, hash string, most int64) error {
		in, err := s.Receive(most)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Abort()
		if _, err := in.Write([]byte(content)); err != nil {
			return err
		}
		return in.Commit(hash)
	}
	good := HashOf([]byte("content"))
	if err := receive("c0ntent", good, 10); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := receive("content", "../x", 10); !errors.Is(err, ErrDamaged) {
		t.Errorf("no hash: %v", err)
	}
	if err := receive("content", good, 6); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := receive("content", good, 7); err != nil {
		t.Error(err)
	}
	if got, err := s.Get(context.Background(), good); err != nil || string(got) != "content" {
		t.Errorf("got %q, %v", got, err)
	}
}
