// Package jobstore keeps what a job is made of, besides the decisions about it
// and its artifacts: the pipeline as submitted, and what is needed to run it.
//
// A job is one file, written once before the job is accepted, and checked
// against the hashes in it whenever it is read. What is needed to run it holds
// its author's secrets: they are in no other file, readable by nobody else, and
// removed when the job has ended.
package jobstore

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrNotFound means that there is no such job, or that part of it is gone.
var ErrNotFound = errors.New("job is not stored")

// A Part is one of the things that a job is made of.
type Part string

const (
	Pipeline Part = "pipeline" // as it was submitted
	Run      Part = "run"      // the plan and the options; gone when the job has ended
)

// order is that of the parts in a file. What is dropped is last.
var order = []Part{Pipeline, Run}

// A header is the first line of a job's file; the parts follow in its order.
type header struct {
	Version int       `json:"trestleJob"`
	Parts   []partTag `json:"parts"`
}

type partTag struct {
	Name   Part   `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

const (
	version       = 1
	maxHeader     = 4 << 10
	fileExtension = ".job"
)

// A Store is a directory of jobs. It is safe for concurrent use; calls for one
// job must not overlap, but for Get.
type Store struct{ dir string }

// New returns the store of a directory, which is made if it isn't there. What
// an earlier process left half written is removed.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	return &Store{dir: dir}, err
}

func (s *Store) path(id string) (string, error) {
	if id == "" || len(id) > 200 || id[0] == '.' || strings.ContainsAny(id, "/\\\x00") {
		return "", ErrNotFound
	}
	return filepath.Join(s.dir, id+fileExtension), nil
}

// Put stores a job. When it returns nil the job survives the loss of power. It
// returns the SHA-256 of each part.
func (s *Store) Put(id string, parts map[Part][]byte) (map[Part]string, error) {
	path, err := s.path(id)
	if err != nil {
		return nil, fmt.Errorf("invalid job id %q", id)
	}
	h := header{Version: version}
	hashes := make(map[Part]string, len(parts))
	for _, name := range order {
		if b, ok := parts[name]; ok {
			sum := sha256.Sum256(b)
			hashes[name] = hex.EncodeToString(sum[:])
			h.Parts = append(h.Parts, partTag{name, int64(len(b)), hashes[name]})
		}
	}
	if err := write(path, h, parts); err != nil {
		return nil, fmt.Errorf("store job %s: %w", id, err)
	}
	return hashes, nil
}

func write(path string, h header, parts map[Part][]byte) error {
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	for _, p := range h.Parts {
		if err == nil {
			_, err = f.Write(parts[p.Name])
		}
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		os.Remove(path + ".tmp")
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Get reads one part of a job.
func (s *Store) Get(id string, part Part) ([]byte, error) {
	path, err := s.path(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := read(f, part)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("read %s of job %s: %w", part, id, err)
	}
	return b, err
}

func read(f *os.File, part Part) ([]byte, error) {
	h, offset, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for _, p := range h.Parts {
		if p.Name == Run && info.Size() == offset {
			return nil, ErrNotFound // dropped
		}
		if p.Bytes < 0 || p.Bytes > info.Size()-offset {
			return nil, errors.New("the file is shorter than it says")
		}
		if p.Name != part {
			offset += p.Bytes
			continue
		}
		b := make([]byte, p.Bytes)
		if _, err := f.ReadAt(b, offset); err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.SHA256 {
			return nil, errors.New("the file is damaged: its content is not what was stored")
		}
		return b, nil
	}
	return nil, ErrNotFound
}

func readHeader(f *os.File) (h header, offset int64, err error) {
	line, err := bufio.NewReader(io.LimitReader(f, maxHeader)).ReadBytes('\n')
	if err != nil {
		return h, 0, errors.New("the file has no header")
	}
	if err := json.Unmarshal(line, &h); err != nil || h.Version != version {
		return h, 0, fmt.Errorf("the file's header is not one of version %d", version)
	}
	return h, int64(len(line)), nil
}

// DropRun removes what only a running job needs: it is the file's last part,
// and cut off. That isn't synced: who finds it after a loss of power drops it
// again.
func (s *Store) DropRun(id string) error {
	path, err := s.path(id)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h, offset, err := readHeader(f)
	if err != nil {
		return fmt.Errorf("drop run of job %s: %w", id, err)
	}
	for _, p := range h.Parts {
		if p.Name == Run {
			return f.Truncate(offset)
		}
		offset += p.Bytes
	}
	return nil
}

// Sweep removes the jobs, stored before some time, that are not known.
func (s *Store) Sweep(known func(id string) bool, before time.Time) (removed []string, err error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), fileExtension)
		if !ok || known(id) {
			continue
		}
		info, statErr := f.Info()
		if statErr != nil || info.ModTime().After(before) {
			continue // perhaps on its way to being accepted
		}
		if e := os.Remove(filepath.Join(s.dir, f.Name())); e != nil {
			err = errors.Join(err, e)
			continue
		}
		removed = append(removed, id)
	}
	return removed, err
}
