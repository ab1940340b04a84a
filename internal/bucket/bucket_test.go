package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"trestle/internal/bucket"
	"trestle/internal/bucket/buckettest"

	"github.com/google/go-cmp/cmp"
)

// hasty gives up soon, so that tests do.
var hasty = bucket.Options{Tries: 4, Pause: time.Millisecond, MostPause: 5 * time.Millisecond, Idle: 300 * time.Millisecond}

func put(t *testing.T, b *bucket.Bucket, key, content string) {
	t.Helper()
	if err := b.Put(context.Background(), key, bytes.NewReader([]byte(content)), int64(len(content)), false); err != nil {
		t.Fatal(err)
	}
}

func get(b *bucket.Bucket, key string, off, n int64) (string, error) {
	r, err := b.Read(context.Background(), key, off, n)
	if err != nil {
		return "", err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	return string(content), err
}

// Every kind of store does the same.
func TestStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) string{
		"mem":  func(*testing.T) string { return "mem://" },
		"file": func(t *testing.T) string { return "file://" + t.TempDir() + "/new/dir?prefix=a/" },
		"s3":   func(t *testing.T) string { return buckettest.New(t).URL },
	} {
		t.Run(name, func(t *testing.T) { testStore(t, buckettest.Open(t, open(t), hasty)) })
	}
}

func testStore(t *testing.T, b *bucket.Bucket) {
	ctx := context.Background()
	put(t, b, "a/one", "first")
	put(t, b, "a/two", "second")
	put(t, b, "b/three", "")
	for _, c := range []struct {
		key    string
		off, n int64
		want   string
	}{{"a/one", 0, -1, "first"}, {"a/one", 1, 2, "ir"}, {"a/one", 3, 100, "st"}, {"b/three", 0, -1, ""}} {
		if got, err := get(b, c.key, c.off, c.n); err != nil || got != c.want {
			t.Errorf("%s from %d: %q, %v", c.key, c.off, got, err)
		}
	}
	if _, err := get(b, "a/none", 0, -1); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	err := b.Put(ctx, "a/one", bytes.NewReader([]byte("other")), 5, true)
	if got, _ := get(b, "a/one", 0, -1); !errors.Is(err, bucket.ErrExists) || got != "first" {
		t.Errorf("put again: %v, and it is %q now", err, got)
	}
	var keys []string
	if err := b.List(ctx, "a/", func(o bucket.Object) error {
		keys = append(keys, fmt.Sprintf("%s %d %t", o.Key, o.Size, time.Since(o.Written) < time.Hour))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/one 5 true", "a/two 6 true"}, keys); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(b.DeleteAll(ctx, "a/"), b.Delete(ctx, "a/two")); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]bool{"a/one": false, "a/two": false, "b/three": true} {
		if got, err := b.Has(ctx, key); got != want || err != nil {
			t.Errorf("%s is there: %t, %v", key, got, err)
		}
	}
}

// A large object goes up in parts, and comes back whole from a store that
// breaks off, hangs, crawls and says it is busy.
func TestBadStore(t *testing.T) {
	s := buckettest.New(t)
	b := s.Open(t, bucket.Options{Tries: 20, Pause: time.Millisecond, MostPause: 5 * time.Millisecond, Idle: 10 * time.Second})
	want := make([]byte, 20<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	var n atomic.Int64
	s.Misbehave(func(*http.Request) buckettest.Fault {
		switch n.Add(1) % 6 {
		case 1:
			return buckettest.Fault{Refuse: http.StatusServiceUnavailable}
		case 3:
			return buckettest.Fault{CutAfter: 700_000}
		case 5:
			return buckettest.Fault{Slow: time.Millisecond}
		}
		return buckettest.Fault{}
	})
	if err := b.Put(context.Background(), "large", bytes.NewReader(want), int64(len(want)), true); err != nil {
		t.Fatal(err)
	}
	if got, err := get(b, "large", 0, -1); err != nil || got != string(want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	// Without the SDK's own patience, which is not for these:
	for _, f := range []buckettest.Fault{{CutAfter: 300_000}, {CutAfter: 300_000, Slow: time.Millisecond}} {
		s.Misbehave(func(*http.Request) buckettest.Fault { return f })
		if got, err := get(b, "large", 5_000_000, 3_000_000); err != nil || got != string(want[5_000_000:8_000_000]) {
			t.Errorf("%+v: got %d bytes, %v", f, len(got), err)
		}
	}
}

// A store that can't be asked is told from one that says no.
func TestErrors(t *testing.T) {
	s := buckettest.New(t)
	b := s.Open(t, hasty)
	put(t, b, "x", "content")
	var unreachable *bucket.UnreachableError
	for _, f := range []buckettest.Fault{{Refuse: 500}, {Swallow: true}, {Hang: true}, {CutAfter: 3}} {
		s.Misbehave(func(*http.Request) buckettest.Fault { return f })
		if _, err := get(b, "x", 0, -1); !errors.As(err, &unreachable) && f.CutAfter == 0 {
			t.Errorf("read with %+v: %v", f, err)
		} else if errors.Is(err, io.EOF) {
			t.Errorf("read with %+v looks like the end: %v", f, err)
		}
		if f.CutAfter != 0 {
			continue
		}
		if err := b.Delete(context.Background(), "x"); !errors.As(err, &unreachable) {
			t.Errorf("delete with %+v: %v", f, err)
		}
	}
	s.Misbehave(func(*http.Request) buckettest.Fault { return buckettest.Fault{Refuse: 403} })
	if _, err := get(b, "x", 0, -1); err == nil || errors.As(err, &unreachable) || errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("read what is forbidden: %v", err)
	}
	s.Misbehave(nil)
	none := buckettest.Open(t, "s3://another"+s.URL[len("s3://trestle"):], hasty)
	if _, err := get(none, "x", 0, -1); err == nil || errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("a bucket that isn't there: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Delete(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for _, url := range []string{"s3://key:secret@bucket", "gopher://x", "%"} {
		if _, err := bucket.Open(context.Background(), url, hasty); err == nil {
			t.Errorf("%s was opened", url)
		}
	}
}
