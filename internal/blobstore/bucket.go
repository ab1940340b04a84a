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
}

var _ Store = (*Bucket)(nil)

const (
	// root is what the keys of blobs begin with.
	root = "blobs/"
	// mostBytes bounds what is read into memory.
	mostBytes = 1 << 30
)

// In returns the blobs of a bucket.
func In(b *bucket.Bucket) *Bucket { return &Bucket{bucket: b} }

// Put keeps blobs and returns their hashes, in order.
func (s *Bucket) Put(ctx context.Context, blobs ...[]byte) ([]string, error) {
	hashes := make([]string, len(blobs))
	g, ctx := errgroup.WithContext(ctx)
	for i, data := range blobs {
		hashes[i] = HashOf(data)
		// Also if it is there: a damaged one is so mended, and an old one young.
		g.Go(func() error {
			return s.bucket.Put(ctx, root+hashes[i], bytes.NewReader(data), int64(len(data)), false)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("put blob: %w", err)
	}
	return hashes, nil
}

// Get returns a blob. The error is ErrNotFound or ErrDamaged when it is that.
func (s *Bucket) Get(ctx context.Context, hash string) ([]byte, error) {
	if !isHash(hash) {
		return nil, fmt.Errorf("get blob %q: that is no SHA-256 in hexadecimal: %w", hash, ErrNotFound)
	}
	r, err := s.bucket.Read(ctx, root+hash, 0, -1)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, fmt.Errorf("get blob %s: %w", hash, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get blob %s: %w", hash, err)
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
	return s.bucket.Has(ctx, root+hash)
}

// Sweep removes every blob that keep doesn't want.
func (s *Bucket) Sweep(ctx context.Context, keep func(hash string, put time.Time) bool) error {
	err := s.bucket.List(ctx, root, func(o bucket.Object) error {
		hash := strings.TrimPrefix(o.Key, root)
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
