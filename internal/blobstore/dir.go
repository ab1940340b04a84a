package blobstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Dir is a directory of blobs, each a file that its owner alone can read.
type Dir struct {
	dir string
	// sweeping is held by who makes a blob young, and taken whole by who looks
	// how old one is and removes it.
	sweeping sync.RWMutex
}

var _ Store = (*Dir)(nil)

// unfinished begins the names of files that are being written.
const unfinished = "new-"

// Open takes the directory, which it creates if need be, and removes what a
// crash has left unfinished. One process at a time may have it open.
func Open(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return nil, fmt.Errorf("open blob store: %w", err)
		}
	}
	return &Dir{dir: dir}, nil
}

// Put keeps blobs and returns their hashes, in order. They are durable then.
func (s *Dir) Put(_ context.Context, blobs ...[]byte) ([]string, error) {
	hashes := make([]string, len(blobs))
	var g errgroup.Group // disks sync several files in about the time of one
	for i, data := range blobs {
		hashes[i] = HashOf(data)
		g.Go(func() error { return s.put(hashes[i], data) })
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("put blob: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return nil, fmt.Errorf("put blob: %w", err)
	}
	return hashes, nil
}

// put makes the file, but not yet its name, durable.
func (s *Dir) put(hash string, data []byte) error {
	if has, err := s.Renew(hash); err == nil && has {
		return nil
	}
	in, err := s.Receive(int64(len(data)))
	if err != nil {
		return err
	}
	defer in.Abort()
	if _, err := in.Write(data); err != nil {
		return err
	}
	return in.finish(hash)
}

// Get returns a blob. The error is ErrNotFound or ErrDamaged when it is that.
func (s *Dir) Get(_ context.Context, hash string) ([]byte, error) {
	if !isHash(hash) {
		return nil, fmt.Errorf("get blob %q: that is no SHA-256 in hexadecimal: %w", hash, ErrNotFound)
	}
	data, err := s.read(hash)
	if err != nil {
		return nil, fmt.Errorf("get blob %s: %w", hash, err)
	}
	return data, nil
}

func (s *Dir) read(hash string) ([]byte, error) {
	data, err := os.ReadFile(s.path(hash))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if HashOf(data) != hash {
		return nil, ErrDamaged
	}
	return data, nil
}

// Has tells whether a blob is there.
func (s *Dir) Has(_ context.Context, hash string) (bool, error) {
	if !isHash(hash) {
		return false, nil
	}
	_, err := os.Stat(s.path(hash))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Renew tells whether a blob is there and whole, and makes it as young as if it
// had been put again.
func (s *Dir) Renew(hash string) (bool, error) {
	if !isHash(hash) {
		return false, nil
	}
	s.sweeping.RLock()
	defer s.sweeping.RUnlock()
	_, err := s.read(hash)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now := time.Now()
	return true, os.Chtimes(s.path(hash), now, now)
}

// Open returns a blob as a stream, which isn't verified: who sends it on has it
// verified at the other end.
func (s *Dir) Open(hash string) (io.ReadCloser, error) {
	if !isHash(hash) {
		return nil, ErrNotFound
	}
	f, err := os.Open(s.path(hash))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	return f, err
}

// Sweep removes every blob that keep doesn't want.
func (s *Dir) Sweep(_ context.Context, keep func(hash string, put time.Time) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	for _, e := range entries {
		if !isHash(e.Name()) {
			continue
		}
		if err := s.sweepOne(e.Name(), keep); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep blobs: %w", err)
		}
	}
	return nil
}

// sweepOne removes a blob unless keep wants it. Nobody makes it young meanwhile
// and takes it for kept.
func (s *Dir) sweepOne(hash string, keep func(hash string, put time.Time) bool) error {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	info, err := os.Stat(s.path(hash))
	if err != nil || keep(hash, info.ModTime()) {
		return err
	}
	return os.Remove(s.path(hash))
}

// An Incoming is a blob on its way in. Exactly one of Commit and Abort ends it;
// Abort after Commit does nothing, so it can be deferred.
type Incoming struct {
	store *Dir
	file  *os.File // nil after the end
	hash  hash.Hash
	left  int64
}

// Receive starts a blob of at most so many bytes.
func (s *Dir) Receive(most int64) (*Incoming, error) {
	f, err := os.CreateTemp(s.dir, unfinished) // 0600
	if err != nil {
		return nil, err
	}
	return &Incoming{store: s, file: f, hash: sha256.New(), left: most}, nil
}

// Write adds bytes to the blob.
func (in *Incoming) Write(p []byte) (int, error) {
	if in.left -= int64(len(p)); in.left < 0 {
		return 0, ErrTooLarge
	}
	_, _ = in.hash.Write(p) // a hash takes all
	return in.file.Write(p)
}

// Commit keeps the blob if it has that hash. It is durable then.
func (in *Incoming) Commit(hash string) error {
	defer in.Abort()
	if err := in.finish(hash); err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	if err := syncDir(in.store.dir); err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	return nil
}

// finish makes the file durable and gives it its name.
func (in *Incoming) finish(hash string) error {
	if got := hex.EncodeToString(in.hash.Sum(nil)); got != hash {
		return fmt.Errorf("%w: it has %s, and %.80q was promised", ErrDamaged, got, hash)
	}
	f := in.file
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		in.store.sweeping.RLock()
		err = os.Rename(f.Name(), in.store.path(hash))
		in.store.sweeping.RUnlock()
	}
	if err == nil {
		in.file = nil
	}
	return err
}

// Abort leaves nothing behind.
func (in *Incoming) Abort() {
	if in.file != nil {
		_ = in.file.Close() // perhaps again; nothing in it counts
		_ = os.Remove(in.file.Name())
		in.file = nil
	}
}

func (s *Dir) path(hash string) string { return filepath.Join(s.dir, hash) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
