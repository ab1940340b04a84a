// Package artifact keeps the files that jobs bring along.
//
// A file is named by the SHA-256 of its content and stored once, however many
// jobs bring it. What a client calls it is data that travels with the pipeline;
// it never becomes a path here, and a name that a worker could mistake for one
// outside its own directory is refused (CheckStagedName).
//
// A file lives while a job holds it. Release lets go of all that a job holds;
// the last holder's release removes the file. Holders are written down, so that
// a restart knows them, and New removes what has none: the leftovers of a
// process that was killed.
//
// A job may be submitted at one process and run under another, so its files are
// in several stores. Each has them held by the job itself: a store that got
// copies ahead of the job's acceptance, or finds the job in the log and has the
// files, makes them the job's with Adopt. From there on all stores do the same:
// Release at the job's end, and now and then Keep, which ends what was prepared
// or copied and never became a job.
//
// Content is hashed on its way in and hashed again on its way out: a reader
// gets an error, not a flipped bit. The empty file costs nothing: it is always
// there.
package artifact

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// EmptySHA256 is the name of the empty file.
const EmptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var (
	// ErrNotFound means that no file of that name is kept.
	ErrNotFound = errors.New("no such artifact")
	// ErrTooLarge means that a file or a job goes over its bound.
	ErrTooLarge = errors.New("artifact too large")
)

// Options are bounds of a Store; the zero value is good.
type Options struct {
	MaxFileBytes int64 // 8 GiB if 0
	MaxJobBytes  int64 // all files of one job: 32 GiB if 0
}

// A Store keeps artifacts under one directory: sha256/ the files, jobs/ who
// holds which, incoming/ what is on its way.
type Store struct {
	dir  string
	opts Options

	mu   sync.Mutex
	held map[string]map[string]int64 // job → names of its files and their bytes
	last map[string]time.Time        // job in held → when it last got or sealed a file
	refs map[string]int              // name → number of jobs that hold it
}

// New opens the store of a directory, which is made if it isn't there, and
// removes what no job holds.
func New(dir string, opts Options) (*Store, error) {
	if opts.MaxFileBytes == 0 {
		opts.MaxFileBytes = 8 << 30
	}
	if opts.MaxJobBytes == 0 {
		opts.MaxJobBytes = 32 << 30
	}
	s := &Store{dir: dir, opts: opts, held: make(map[string]map[string]int64), last: make(map[string]time.Time), refs: make(map[string]int)}
	if err := os.RemoveAll(s.incomingDir()); err != nil {
		return nil, err
	}
	for _, d := range []string{s.incomingDir(), s.filesDir(), s.jobsDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	return s, nil
}

func (s *Store) filesDir() string            { return filepath.Join(s.dir, "sha256") }
func (s *Store) jobsDir() string             { return filepath.Join(s.dir, "jobs") }
func (s *Store) incomingDir() string         { return filepath.Join(s.dir, "incoming") }
func (s *Store) filePath(name string) string { return filepath.Join(s.filesDir(), name) }

// load reads who holds what and removes the rest.
func (s *Store) load() error {
	jobs, err := os.ReadDir(s.jobsDir())
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := s.loadJob(j.Name()); err != nil {
			return err
		}
	}
	files, err := os.ReadDir(s.filesDir())
	if err != nil {
		return err
	}
	for _, f := range files {
		if s.refs[f.Name()] == 0 {
			if err := os.Remove(s.filePath(f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) loadJob(job string) error {
	f, err := os.Open(filepath.Join(s.jobsDir(), job))
	if err != nil {
		return err
	}
	defer f.Close()
	written, err := f.Stat()
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name := lines.Text()
		info, err := os.Stat(s.filePath(name))
		if !validSHA256(name) || err != nil {
			continue // torn, or never came: whoever needs it will be told
		}
		s.hold(job, name, info.Size())
		s.last[job] = written.ModTime()
	}
	return lines.Err()
}

// hold notes that a job holds a file. The mutex is held, or nobody else is here.
func (s *Store) hold(job, name string, bytes int64) {
	files := s.held[job]
	if files == nil {
		files = make(map[string]int64)
		s.held[job] = files
	}
	s.last[job] = time.Now()
	if _, ok := files[name]; !ok {
		files[name] = bytes
		s.refs[name]++
	}
}

// Seal makes what a job holds survive the loss of power. Until then it
// survives nothing but the process.
func (s *Store) Seal(job string) error {
	if !validJob(job) {
		return fmt.Errorf("invalid job id %q", job)
	}
	s.mu.Lock()
	names := s.names(job)
	s.last[job] = time.Now()
	if len(names) == 0 {
		delete(s.last, job)
	}
	s.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if err := syncPath(s.filePath(name)); err != nil {
			return err
		}
	}
	if err := syncPath(s.filesDir()); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(s.incomingDir(), "job-")
	if err != nil {
		return err
	}
	_, err = tmp.WriteString(strings.Join(names, "\n") + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(s.jobsDir(), job))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	return syncPath(s.jobsDir())
}

// Names are the files that a job holds, in order.
func (s *Store) Names(job string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names(job)
}

func (s *Store) names(job string) []string {
	return slices.Sorted(maps.Keys(s.held[job]))
}

// Adopt has a job hold those of the files that are here, as if it had brought
// and sealed them, and tells which are missing. It may be called again.
func (s *Store) Adopt(job string, names ...string) (missing []string, err error) {
	if !validJob(job) {
		return nil, fmt.Errorf("invalid job id %q", job)
	}
	s.mu.Lock()
	for _, name := range names {
		if name == EmptySHA256 {
			continue
		}
		if validSHA256(name) {
			// While the mutex is held no Release takes the file away.
			if info, err := os.Stat(s.filePath(name)); err == nil {
				s.hold(job, name, info.Size())
				continue
			}
		}
		missing = append(missing, name)
	}
	s.mu.Unlock()
	return missing, s.Seal(job)
}

// Release lets go of all files that a job holds. Files that no other job holds
// are removed. Unknown jobs are fine.
func (s *Store) Release(job string) {
	if !validJob(job) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	os.Remove(filepath.Join(s.jobsDir(), job)) // first: a holder without a file is harmless
	for name := range s.held[job] {
		if s.refs[name]--; s.refs[name] == 0 {
			delete(s.refs, name)
			os.Remove(s.filePath(name)) // what stays behind goes at the next start
		}
	}
	delete(s.held, job)
	delete(s.last, job)
}

// Keep releases all jobs but those wanted. Wanted is told when the job last
// brought or sealed a file here; it must want those that are being prepared and
// those that may be accepted in a moment.
func (s *Store) Keep(wanted func(job string, last time.Time) bool) {
	s.mu.Lock()
	jobs := maps.Clone(s.last)
	s.mu.Unlock()
	for job, last := range jobs {
		if !wanted(job, last) {
			s.Release(job)
		}
	}
}

// Open returns the content of a file. It reads to io.EOF only if every byte is
// as it came in; otherwise the last Read returns an error that says so.
func (s *Store) Open(name string) (io.ReadCloser, error) {
	name = strings.ToLower(name)
	if name == EmptySHA256 {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if !validSHA256(name) {
		return nil, ErrNotFound
	}
	f, err := os.Open(s.filePath(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &verified{file: f, name: name, hash: sha256.New()}, nil
}

// A verified reader checks the hash of what it has read before it says io.EOF.
type verified struct {
	file *os.File
	name string
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.file.Read(p)
	_, _ = v.hash.Write(p[:n]) // a hash takes all
	if err == io.EOF {
		if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.name {
			return n, fmt.Errorf("artifact %s is damaged on disk: its content has SHA-256 %s", v.name, got)
		}
	}
	return n, err
}

func (v *verified) Close() error { return v.file.Close() }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func validSHA256(name string) bool {
	if len(name) != 2*sha256.Size {
		return false
	}
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func validJob(job string) bool {
	return job != "" && len(job) <= 200 && job[0] != '.' && !strings.ContainsAny(job, "/\\\x00\n")
}
