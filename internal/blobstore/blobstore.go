// Package blobstore keeps byte strings under their SHA-256.
//
// Pipelines and plans are too large for the log of decisions, which names them
// by hash instead. A blob is durable when Put returns, never changes, and is
// verified each time it is read: what Get returns is what was put. Putting a
// blob twice costs little, and mends one that was damaged.
//
// There are two kinds of store. A Dir is a directory of this machine; a group
// of JobManagers copies what is in one to the others (package replica). A Bucket
// is an object store that all of them reach. Names come from nowhere but
// hashes. Who still needs which blob is not known here; see Sweep.
package blobstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// A Store keeps blobs. Its methods may be called from any goroutine.
type Store interface {
	// Put keeps blobs and returns their hashes, in order. They are durable then.
	Put(ctx context.Context, blobs ...[]byte) ([]string, error)
	// Get returns a blob. The error is ErrNotFound or ErrDamaged when it is that.
	Get(ctx context.Context, hash string) ([]byte, error)
	// Has tells whether a blob is there, as far as its name tells.
	Has(ctx context.Context, hash string) (bool, error)
	// Sweep removes every blob that keep, which is told when it was put last,
	// doesn't want. It must want what a Put may be under way of: those that are
	// young, or all while the callers of Put are held up.
	Sweep(ctx context.Context, keep func(hash string, put time.Time) bool) error
}

// ErrNotFound is for blobs that are not there.
var ErrNotFound = errors.New("no such blob")

// ErrDamaged is for blobs whose bytes have changed.
var ErrDamaged = errors.New("the blob doesn't match its hash")

// ErrTooLarge is for blobs that are larger than a caller or the store allows.
var ErrTooLarge = errors.New("the blob is too large")

// HashOf is the name under which a blob is kept.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// isHash keeps names from outside from becoming paths.
func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
