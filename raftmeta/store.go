package raftmeta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A DamagedError says that a file holds what was never written. The node must
// not go on with it. One of several is removed from the group, given an empty
// directory and added again; one that stands alone is restored from a backup.
type DamagedError struct {
	File  string
	Where string // page 7, entry 12, …
	Err   error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged at %s: %v", e.File, e.Where, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// A store keeps Raft's log and votes in a bbolt file. Neither Raft nor bbolt
// checks what it reads, so each entry and each value gets a CRC-32C, and the
// whole file is read once when it is opened. It is raft.LogStore and
// raft.StableStore.
type store struct {
	path    string
	bolt    *raftboltdb.BoltStore
	mark    *lowMark
	damaged func(error) // told of damage that is found later

	writing     sync.Mutex    // held while the log is changed: Raft appends and compacts at the same time
	first, last atomic.Uint64 // of the log; 0 when it is empty; changed with writing held

	transactions atomic.Uint64 // each is two syncs: bbolt's data, bbolt's meta page
	entries      atomic.Uint64
	storeTime    atomic.Int64 // nanoseconds spent in StoreLogs
}

// sealed is what Extensions of an entry hold: the version of the seal, and a
// CRC-32C of all that Raft goes by.
const (
	sealVersion = 1
	sealBytes   = 5
)

func seal(l *raft.Log) []byte {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[:], l.Index)
	binary.LittleEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	sum := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
	return binary.LittleEndian.AppendUint32([]byte{sealVersion}, sum)
}

func checkSeal(l *raft.Log) error {
	if len(l.Extensions) == sealBytes && l.Extensions[0] != sealVersion {
		return fmt.Errorf("it has seal version %d, which this program doesn't know: use a newer one", l.Extensions[0])
	}
	if !bytes.Equal(l.Extensions, seal(l)) {
		return errEntryChecksum
	}
	return nil
}

// openStore opens the file in dir, or makes it, and reads all of it.
func openStore(dir string, damaged func(error)) (*store, error) {
	s := &store{path: filepath.Join(dir, "raft.db"), damaged: damaged}
	_, err := os.Stat(s.path)
	exists := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if s.mark, err = openLowMark(filepath.Join(dir, "last")); err != nil {
		return nil, err
	}
	if !exists && s.mark.index > 0 {
		return nil, errors.Join(&DamagedError{s.path, "its start", fmt.Errorf("it is missing, and once held entry %d", s.mark.index)}, s.mark.close())
	}
	if exists {
		err = checkPages(s.path)
	} else {
		err = s.create()
	}
	if err == nil {
		s.bolt, err = openBolt(s.path)
	}
	if err == nil {
		err = s.scan()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// create makes an empty store, which appears under its name when it is whole.
func (s *store) create() error {
	fresh := s.path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	b, err := openBolt(fresh)
	if err != nil {
		return err
	}
	if err := b.Close(); err != nil {
		return err
	}
	if err := reserve(fresh); err != nil {
		return fmt.Errorf("reserve %d bytes for the log: %w", reserved, err)
	}
	if err := os.Rename(fresh, s.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

// reserved are the bytes of disk that the file has from the start. Raft panics
// if it can't store a vote or a term; so, on a full disk, there must be room for
// these, and appends are what fails. It also saves time at each sync.
const reserved = 16 << 20

func reserve(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, reserved)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil // not every file system can
	}
	return errors.Join(err, file.Sync(), file.Close())
}

// openBolt opens the file. The list of free pages isn't stored: a damaged one
// would let live pages be overwritten, and without it there is less to write;
// it is made anew by reading the file, which is done anyway.
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	b, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:         time.Second, // for its lock; the directory's is ours already
			NoFreelistSync:  true,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: reserved, // the file grows seldom, and each time costs a sync
		},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return b, nil
}

// scan reads every entry and every value.
func (s *store) scan() (err error) {
	defer func() { // bytes that were changed must not end the process
		if p := recover(); p != nil {
			err = &DamagedError{s.path, "a place unknown", fmt.Errorf("%v", p)}
		}
	}()
	first, err := s.bolt.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.bolt.LastIndex()
	if err != nil {
		return err
	}
	var term uint64
	for i := first; i <= last && last > 0; i++ {
		var l raft.Log
		err := s.bolt.GetLog(i, &l)
		if err == nil && l.Index != i {
			err = fmt.Errorf("it holds entry %d", l.Index)
		}
		if err == nil {
			err = checkSeal(&l)
		}
		if err == nil && l.Term < term {
			err = fmt.Errorf("its term %d follows term %d", l.Term, term)
		}
		if err == nil && i == s.mark.index && s.mark.term > 0 && l.Term != s.mark.term {
			err = fmt.Errorf("its term is %d, and once was %d", l.Term, s.mark.term)
		}
		if err != nil {
			return &DamagedError{s.path, fmt.Sprintf("entry %d", i), err}
		}
		term = l.Term
	}
	if last < s.mark.index {
		return &DamagedError{s.path, fmt.Sprintf("entry %d", last+1), fmt.Errorf("it is missing, and so may be others up to entry %d", s.mark.index)}
	}
	s.first.Store(first)
	s.last.Store(last)
	return s.scanValues()
}

// scanValues reads the votes and the like. A node has the name of its group
// before it has anything else, and the last of all keys: it is the first to be
// lost with a page's end.
func (s *store) scanValues() error {
	known := s.last.Load() > 0 || s.mark.index > 0
	for key := range stableKeys {
		_, err := s.Get([]byte(key))
		switch {
		case err == nil:
			known = true
		case !errors.Is(err, raftboltdb.ErrKeyNotFound):
			return err
		}
	}
	if _, err := s.Get([]byte(groupKey)); err != nil && known {
		return &DamagedError{s.path, groupKey, errors.New("it is missing")}
	}
	return nil
}

func (s *store) close() error {
	var errs []error
	if s.bolt != nil {
		errs = append(errs, s.bolt.Close())
	}
	return errors.Join(append(errs, s.mark.close())...)
}

// FirstIndex is raft.LogStore.
func (s *store) FirstIndex() (uint64, error) { return s.first.Load(), nil }

// LastIndex is raft.LogStore.
func (s *store) LastIndex() (uint64, error) { return s.last.Load(), nil }

// IsMonotonic is raft.MonotonicLogStore: the log has no gaps, and one that
// appears is damage.
func (s *store) IsMonotonic() bool { return true }

// GetLog is raft.LogStore. Raft would panic for an error here, so an entry that
// was damaged while we run comes back as one that does nothing; it isn't
// applied, as the node stops, and no other node takes it without a right seal.
func (s *store) GetLog(index uint64, l *raft.Log) error {
	if err := s.bolt.GetLog(index, l); err != nil {
		return err
	}
	if err := checkSeal(l); err != nil || l.Index != index {
		s.damaged(&DamagedError{s.path, fmt.Sprintf("entry %d", index), errors.Join(err, errors.New("it was whole when this process began"))})
		l.Index, l.Type, l.Data = index, raft.LogNoop, nil
	}
	return nil
}

// StoreLog is raft.LogStore.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs is raft.LogStore. The leader seals what is new; what comes from
// another node was sealed there.
func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	begin := time.Now()
	next := logs[0].Index
	if last := s.last.Load(); last > 0 {
		next = last + 1
	}
	for _, l := range logs {
		if l.Index != next {
			return fmt.Errorf("store entry %d of the log where %d comes next", l.Index, next)
		}
		next++
		if len(l.Extensions) == 0 {
			l.Extensions = seal(l)
		} else if err := checkSeal(l); err != nil {
			return fmt.Errorf("entry %d of the log, which came from another node: %w", l.Index, err)
		}
	}
	if err := s.bolt.StoreLogs(logs); err != nil {
		return fmt.Errorf("store entry %d of the log: %w", logs[0].Index, err)
	}
	end := logs[len(logs)-1]
	if s.last.Load() == 0 {
		s.first.Store(logs[0].Index)
	}
	s.last.Store(end.Index)
	s.transactions.Add(1)
	s.entries.Add(uint64(len(logs)))
	err := s.mark.set(end.Index, end.Term, false)
	s.storeTime.Add(int64(time.Since(begin)))
	return err
}

// DeleteRange is raft.LogStore: what is deleted is the log's start or its end.
func (s *store) DeleteRange(from, to uint64) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	first, last := s.first.Load(), s.last.Load()
	if last == 0 || to < first || from > last {
		return nil
	}
	switch {
	case from <= first && to >= last:
		first, last = 0, 0
	case from <= first:
		first = to + 1
	case to >= last:
		last = from - 1
	default:
		return fmt.Errorf("delete entries %d to %d of the log in its middle", from, to)
	}
	if to >= s.last.Load() { // say so before, or the next start takes it for damage
		if err := s.mark.set(last, 0, true); err != nil {
			return err
		}
	}
	if err := s.bolt.DeleteRange(from, to); err != nil {
		return fmt.Errorf("delete entries %d to %d of the log: %w", from, to, err)
	}
	s.transactions.Add(1)
	s.first.Store(first)
	s.last.Store(last)
	return nil
}

// stableKeys are all there are: another in the file is a damaged one.
var stableKeys = map[string]bool{"CurrentTerm": true, "LastVoteTerm": true, "LastVoteCand": true, groupKey: true}

// groupKey is where a node keeps the name of its group.
const groupKey = "TrestleGroup"

func stableSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Set is raft.StableStore.
func (s *store) Set(key, value []byte) error {
	if !stableKeys[string(key)] {
		return fmt.Errorf("store %q, which is no key of the store", key)
	}
	s.transactions.Add(1)
	if err := s.bolt.Set(key, binary.LittleEndian.AppendUint32(bytes.Clone(value), stableSum(key, value))); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Get is raft.StableStore. Its error for a missing key is one that Raft knows.
func (s *store) Get(key []byte) ([]byte, error) {
	b, err := s.bolt.Get(key)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 || binary.LittleEndian.Uint32(b[len(b)-4:]) != stableSum(key, b[:len(b)-4]) {
		return nil, &DamagedError{s.path, string(key), errEntryChecksum}
	}
	return b[:len(b)-4], nil
}

// SetUint64 is raft.StableStore.
func (s *store) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, value))
}

// GetUint64 is raft.StableStore.
func (s *store) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, &DamagedError{s.path, string(key), fmt.Errorf("it has %d bytes", len(b))}
	}
	return binary.LittleEndian.Uint64(b), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
