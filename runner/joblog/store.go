package joblog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Options are settings of a Store; the zero value is good.
type Options struct {
	// MaxBytes bounds the files of one log: 64 MiB if 0.
	MaxBytes int64
}

// A Store keeps the logs of all jobs under one directory.
type Store struct {
	dir      string
	maxBytes int64

	mu   sync.Mutex
	logs map[string]*jobLog // those in use; the others are on disk
}

// New returns the store of a directory, which is made if it isn't there.
func New(dir string, opts Options) (*Store, error) {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 64 << 20
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir, maxBytes: opts.MaxBytes, logs: make(map[string]*jobLog)}, nil
}

// Append adds entries to a job's log and numbers them. Entries of one call
// stay together. Zero times are not filled in: the caller has a clock.
func (s *Store) Append(job string, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	l, err := s.hold(job)
	if err != nil {
		return err
	}
	defer s.letGo(l)
	if err := l.append(entries); err != nil {
		return fmt.Errorf("append to message log of %s: %w", job, err)
	}
	return nil
}

// Open returns a reader of the entries after number after (0: all that are
// kept). A job that has said nothing yet has an empty log.
func (s *Store) Open(job string, after uint64) (*Reader, error) {
	l, err := s.hold(job)
	if err != nil {
		return nil, err
	}
	return &Reader{store: s, log: l, next: after + 1}, nil
}

// Last is the number of the newest entry of a job, 0 if there is none.
func (s *Store) Last(job string) (uint64, error) {
	l, err := s.hold(job)
	if err != nil {
		return 0, err
	}
	defer s.letGo(l)
	return l.last(), nil
}

// Finish closes the files of a job that has ended. The log can still be read,
// and appended to: stragglers open it again.
func (s *Store) Finish(job string) {
	s.mu.Lock()
	l := s.logs[job]
	s.mu.Unlock()
	if l != nil {
		l.closeFile()
	}
}

// Remove forgets a job's log.
func (s *Store) Remove(job string) error {
	if !validName(job) {
		return ErrNotFound
	}
	s.Finish(job)
	s.mu.Lock()
	delete(s.logs, job)
	s.mu.Unlock()
	return os.RemoveAll(filepath.Join(s.dir, job))
}

// Keep removes the logs of all jobs but those wanted, unless they are open.
func (s *Store) Keep(wanted func(job string) bool) error {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		s.mu.Lock()
		inUse := s.logs[d.Name()] != nil
		s.mu.Unlock()
		if !inUse && validName(d.Name()) && !wanted(d.Name()) {
			err = errors.Join(err, s.Remove(d.Name()))
		}
	}
	return err
}

// Close closes all files. Nobody may append any more.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.logs {
		l.closeFile()
	}
	clear(s.logs)
}

// hold returns the log of a job and keeps it from being dropped until letGo.
func (s *Store) hold(job string) (*jobLog, error) {
	if !validName(job) {
		return nil, ErrNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[job]
	if l == nil {
		var err error
		if l, err = openLog(filepath.Join(s.dir, job), s.maxBytes); err != nil {
			return nil, err
		}
		l.job = job
		s.logs[job] = l
	}
	l.holders++
	return l, nil
}

// letGo drops logs that nobody reads and whose file is closed: a server with a
// long history keeps only the logs of running jobs in memory.
func (s *Store) letGo(l *jobLog) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.holders--
	if l.holders == 0 && s.logs[l.job] == l && !l.isOpen() {
		delete(s.logs, l.job)
	}
}

// validName accepts what can only be one plain directory name.
func validName(job string) bool {
	if job == "" || len(job) > 200 || job[0] == '.' {
		return false
	}
	for i := range len(job) {
		c := job[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
