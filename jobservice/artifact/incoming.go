package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"strings"
)

// An Incoming is a file on its way in. Exactly one of Commit and Abort ends
// it; Abort after Commit does nothing, so it can be deferred.
type Incoming struct {
	store *Store
	job   string
	file  *os.File // nil until the first byte, and after the end
	hash  hash.Hash
	bytes int64
	left  int64 // bytes that the job may still bring
}

// Receive starts a file that the job will hold.
func (s *Store) Receive(job string) (*Incoming, error) {
	if !validJob(job) {
		return nil, fmt.Errorf("invalid job id %q", job)
	}
	s.mu.Lock()
	left := s.opts.MaxJobBytes
	for _, bytes := range s.held[job] {
		left -= bytes
	}
	s.mu.Unlock()
	return &Incoming{store: s, job: job, hash: sha256.New(), left: left}, nil
}

// Write adds bytes to the file.
func (in *Incoming) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.bytes+int64(len(p)) > min(in.store.opts.MaxFileBytes, in.left) {
		return 0, fmt.Errorf("%w: a file may have %d bytes and the files of a job %d together",
			ErrTooLarge, in.store.opts.MaxFileBytes, in.store.opts.MaxJobBytes)
	}
	if in.file == nil {
		f, err := os.CreateTemp(in.store.incomingDir(), "file-")
		if err != nil {
			return 0, err
		}
		in.file = f
	}
	in.hash.Write(p)
	n, err := in.file.Write(p)
	in.bytes += int64(n)
	return n, err
}

// Commit checks the content against the SHA-256 that was promised (hex; ""
// where nothing was) and keeps the file for the job. It returns its name.
func (in *Incoming) Commit(promised string) (name string, err error) {
	defer in.Abort()
	name = hex.EncodeToString(in.hash.Sum(nil))
	if promised != "" && !strings.EqualFold(promised, name) {
		return "", &HashError{Promised: promised, Got: name, Bytes: in.bytes}
	}
	if in.bytes == 0 {
		return name, nil
	}
	// A job's own worker may be started from it; nobody writes to it again.
	if err := in.file.Chmod(0o500); err != nil {
		return "", err
	}
	tmp := in.file.Name()
	if err := in.file.Close(); err != nil {
		return "", err
	}
	s := in.store
	s.mu.Lock()
	defer s.mu.Unlock()
	// Also where the file is there already: a damaged one is so repaired.
	if err := os.Rename(tmp, s.filePath(name)); err != nil {
		return "", err
	}
	in.file = nil
	s.hold(in.job, name, in.bytes)
	return name, nil
}

// Abort leaves nothing behind.
func (in *Incoming) Abort() {
	if in.file != nil {
		in.file.Close()
		os.Remove(in.file.Name())
		in.file = nil
	}
}

// A HashError means that a file isn't what its sender said it was.
type HashError struct {
	Promised, Got string
	Bytes         int64
}

func (e *HashError) Error() string {
	return fmt.Sprintf("the %d bytes received have SHA-256 %s, but %.80q was promised", e.Bytes, e.Got, e.Promised)
}
