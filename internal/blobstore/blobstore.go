// Package blobstore keeps byte strings under their SHA-256.
//
// Pipelines and plans are too large for the journal, which names them by hash
// instead. A blob is durable when Put returns, never changes, and is verified
// each time it is read: what Get returns is what was put. Putting a blob twice
// costs little, and mends one that was damaged.
//
// Blobs are files in one directory, named by their hash; names come from
// nowhere else. Who still needs which is not known here; see Sweep.
package blobstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// A Store is a directory of blobs. Its methods may be called from any
// goroutine.
type Store struct {
	dir string
}

// ErrNotFound is for blobs that are not there.
var ErrNotFound = errors.New("no such blob")

// ErrDamaged is for blobs whose bytes have changed.
var ErrDamaged = errors.New("the blob doesn't match its hash")

// unfinished begins the names of files that are being written.
const unfinished = "new-"

// Open takes the directory, which it creates if need be, and removes what a
// crash has left unfinished. One process at a time may have it open.
func Open(dir string) (*Store, error) {
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
	return &Store{dir: dir}, nil
}

// HashOf is the name under which a blob is kept.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Put keeps blobs and returns their hashes, in order. They are durable then.
func (s *Store) Put(blobs ...[]byte) ([]string, error) {
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
func (s *Store) put(hash string, data []byte) error {
	if old, err := os.ReadFile(s.path(hash)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	file, err := os.CreateTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), s.path(hash))
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}

// Get returns a blob. The error is ErrNotFound or ErrDamaged when it is that.
func (s *Store) Get(hash string) ([]byte, error) {
	if !isHash(hash) {
		return nil, fmt.Errorf("get blob %q: that is no SHA-256 in hexadecimal: %w", hash, ErrNotFound)
	}
	data, err := os.ReadFile(s.path(hash))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("get blob %s: %w", hash, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("get blob: %w", err)
	}
	if HashOf(data) != hash {
		return nil, fmt.Errorf("get blob %s: %w", s.path(hash), ErrDamaged)
	}
	return data, nil
}

// Sweep removes every blob that keep doesn't want. No Put may be under way of
// one that keep doesn't know yet.
func (s *Store) Sweep(keep func(hash string) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	for _, e := range entries {
		if !isHash(e.Name()) || keep(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep blobs: %w", err)
		}
	}
	return nil
}

func (s *Store) path(hash string) string { return filepath.Join(s.dir, hash) }

// isHash keeps names from outside from becoming paths.
func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
