package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"trestle/internal/bucket"

	"golang.org/x/sync/errgroup"
)

// A Bucket keeps blobs in an object store, which several processes share.
//
// With several, a blob that one puts while another sweeps away an old one of
// equal content may be lost. Callers who put what was perhaps put before must
// look once more (Has) when their job is accepted and can't be swept any more.
type Bucket struct {
	bucket *bucket.Bucket
	owner  func() (string, error)
}

var _ Store = (*Bucket)(nil)

const (
	// root is what the keys of blobs begin with.
	root = "blobs/"
	// mostBytes bounds what is read into memory.
	mostBytes = 1 << 30
)

// In returns the blobs that an owner has in a bucket, which may have others.
// The owner's name is asked for when it is needed: it may not be known at first.
func In(b *bucket.Bucket, owner func() (string, error)) *Bucket {
	return &Bucket{bucket: b, owner: owner}
}

// prefix is what the keys of the owner's blobs begin with.
func (s *Bucket) prefix() (string, error) {
	owner, err := s.owner()
	if err != nil {
		return "", err
	}
	if owner == "" || strings.Contains(owner, "/") {
		return "", fmt.Errorf("%q can't be the name of who keeps blobs in a bucket", owner)
	}
	return root + owner + "/", nil
}

// Put keeps blobs and returns their hashes, in order.
func (s *Bucket) Put(ctx context.Context, blobs ...[]byte) ([]string, error) {
	prefix, err := s.prefix()
	if err != nil {
		return nil, fmt.Errorf("put blob: %w", err)
	}
	hashes := make([]string, len(blobs))
	g, ctx := errgroup.WithContext(ctx)
	for i, data := range blobs {
		hashes[i] = HashOf(data)
		// Also if it is there: a damaged one is so mended, and an old one young.
		g.Go(func() error {
			return s.bucket.Put(ctx, prefix+hashes[i], bytes.NewReader(data), int64(len(data)), false)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("put blob: %w", err)
	}
	return hashes, nil
}

// open starts to read a blob.
func (s *Bucket) open(ctx context.Context, hash string) (*bucket.Reader, error) {
	if !isHash(hash) {
		return nil, fmt.Errorf("%q is no SHA-256 in hexadecimal: %w", hash, ErrNotFound)
	}
	prefix, err := s.prefix()
	if err != nil {
		return nil, err
	}
	r, err := s.bucket.Read(ctx, prefix+hash, 0, -1)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, ErrNotFound
	}
	return r, err
}

// Open returns a blob as a stream, which isn't verified: who sends it on has it
// verified at the other end.
func (s *Bucket) Open(hash string) (io.ReadCloser, error) {
	r, err := s.open(context.Background(), hash) // it gives up when nothing comes
	if err != nil {
		return nil, err
	}
	return stream{r}, nil
}

// A stream is a blob that is being read.
type stream struct{ *bucket.Reader }

func (s stream) Close() error {
	s.Reader.Close()
	return nil
}

// Get returns a blob. The error is ErrNotFound or ErrDamaged when it is that.
func (s *Bucket) Get(ctx context.Context, hash string) ([]byte, error) {
	r, err := s.open(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("get blob %.80s: %w", hash, err)
	}
	defer r.Close()
	if r.Size() > mostBytes {
		return nil, fmt.Errorf("get blob %s of %d bytes: %w", hash, r.Size(), ErrTooLarge)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("get blob %s: %w", hash, err)
	}
	if HashOf(data) != hash {
		return nil, fmt.Errorf("get blob %s: %w", hash, ErrDamaged)
	}
	return data, nil
}

// Has tells whether a blob is there.
func (s *Bucket) Has(ctx context.Context, hash string) (bool, error) {
	if !isHash(hash) {
		return false, nil
	}
	prefix, err := s.prefix()
	if err != nil {
		return false, err
	}
	return s.bucket.Has(ctx, prefix+hash)
}

// Sweep removes every blob of the owner that keep doesn't want.
func (s *Bucket) Sweep(ctx context.Context, keep func(hash string, put time.Time) bool) error {
	prefix, err := s.prefix()
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	err = s.bucket.List(ctx, prefix, func(o bucket.Object) error {
		hash := strings.TrimPrefix(o.Key, prefix)
		if !isHash(hash) || keep(hash, o.Written) {
			return nil
		}
		return s.bucket.Delete(ctx, o.Key)
	})
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	return nil
}
