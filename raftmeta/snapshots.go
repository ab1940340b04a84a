package raftmeta

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

// A snapshot file is the magic, the length of the head (4 bytes, little
// endian), the head as JSON, the image, and a CRC-32C of all before it. Raft's
// own store would keep the head apart, without a checksum, and take an older
// snapshot for one that can't be read: so this one.
const (
	snapshotMagic  = "trestle snapshot"
	snapshotSuffix = ".snapshot"
	snapshotKept   = 2
	maxHeadBytes   = 1 << 20
)

type snapshotHead struct {
	Version            int                `json:"version"`
	Index              uint64             `json:"index"`
	Term               uint64             `json:"term"`
	Configuration      raft.Configuration `json:"configuration"`
	ConfigurationIndex uint64             `json:"configurationIndex"`
}

const snapshotVersion = 1

// snapshots are the snapshot files of one directory. It is raft.SnapshotStore.
type snapshots struct {
	dir   string
	wrote func(index uint64) // called for each that is complete

	mu   sync.Mutex
	made uint64 // snapshot files begun, for names
}

// openSnapshots reads every snapshot that is there.
func openSnapshots(dir string, wrote func(index uint64)) (*snapshots, *raft.SnapshotMeta, error) {
	s := &snapshots{dir: dir, wrote: wrote}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") { // a crash left it
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, nil, err
			}
		}
	}
	metas, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	for _, m := range metas {
		_, in, err := s.Open(m.ID)
		if err == nil {
			err = in.Close()
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if len(metas) == 0 {
		return s, nil, nil
	}
	return s, metas[0], nil
}

// List is raft.SnapshotStore: the newest first.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var metas []*raft.SnapshotMeta
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), snapshotSuffix) {
			if strings.HasSuffix(e.Name(), ".new") {
				continue
			}
			return nil, fmt.Errorf("%s is no snapshot", filepath.Join(s.dir, e.Name()))
		}
		file, meta, _, err := s.head(e.Name())
		if err != nil {
			return nil, err
		}
		metas = append(metas, meta)
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(metas, func(a, b *raft.SnapshotMeta) int {
		return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Term, a.Term), cmp.Compare(b.ID, a.ID))
	})
	return metas, nil
}

// head opens a snapshot, reads its head and returns where the image begins.
func (s *snapshots) head(id string) (_ *os.File, _ *raft.SnapshotMeta, begin int64, err error) {
	name := filepath.Join(s.dir, id)
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(&DamagedError{name, "its head", err}, file.Close())
		}
	}()
	start := make([]byte, len(snapshotMagic)+4)
	if _, err := io.ReadFull(file, start); err != nil {
		return nil, nil, 0, err
	}
	length := binary.LittleEndian.Uint32(start[len(snapshotMagic):])
	if string(start[:len(snapshotMagic)]) != snapshotMagic || length > maxHeadBytes {
		return nil, nil, 0, errors.New("it doesn't begin as a snapshot does")
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(file, b); err != nil {
		return nil, nil, 0, err
	}
	var h snapshotHead
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, nil, 0, err
	}
	if h.Version != snapshotVersion {
		return nil, nil, 0, fmt.Errorf("it has format version %d: use a newer program", h.Version)
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, nil, 0, err
	}
	begin = int64(len(start)) + int64(length)
	size := stat.Size() - begin - 4
	if size < 0 {
		return nil, nil, 0, io.ErrUnexpectedEOF
	}
	return file, &raft.SnapshotMeta{
		Version: 1, ID: id, Index: h.Index, Term: h.Term, Size: size,
		Configuration: h.Configuration, ConfigurationIndex: h.ConfigurationIndex,
	}, begin, nil
}

type snapshotReader struct {
	io.Reader
	io.Closer
}

// Open is raft.SnapshotStore. The file is read once before its image is given
// out.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	file, meta, begin, err := s.head(filepath.Base(id))
	if err != nil {
		return nil, nil, err
	}
	sum := crc32.New(castagnoli)
	var tail [4]byte
	_, err = io.Copy(sum, io.NewSectionReader(file, 0, begin+meta.Size))
	if err == nil {
		_, err = file.ReadAt(tail[:], begin+meta.Size)
	}
	if err == nil && binary.LittleEndian.Uint32(tail[:]) != sum.Sum32() {
		err = &DamagedError{file.Name(), "a place unknown", errEntryChecksum}
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return meta, snapshotReader{io.NewSectionReader(file, begin, meta.Size), file}, nil
}

// Create is raft.SnapshotStore.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	head, err := json.Marshal(snapshotHead{snapshotVersion, index, term, configuration, configurationIndex})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.made++
	made := s.made
	s.mu.Unlock()
	sink := &snapshotSink{
		store: s, index: index, id: fmt.Sprintf("%020d-%020d%s", term, index, snapshotSuffix),
		name: filepath.Join(s.dir, fmt.Sprintf("%d.new", made)),
	}
	if sink.file, err = os.OpenFile(sink.name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	sink.out = bufio.NewWriterSize(sink.file, 1<<20)
	sink.sum = crc32.New(castagnoli)
	start := binary.LittleEndian.AppendUint32([]byte(snapshotMagic), uint32(len(head)))
	if _, err := sink.Write(append(start, head...)); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

// prune removes all snapshots but the latest few.
func (s *snapshots) prune() error {
	metas, err := s.List()
	if err != nil {
		return err
	}
	var errs []error
	for i := snapshotKept; i < len(metas); i++ {
		errs = append(errs, os.Remove(filepath.Join(s.dir, metas[i].ID)))
	}
	return errors.Join(errs...)
}

// A snapshotSink is a snapshot that is being written. It appears under its
// name when it is whole and on disk.
type snapshotSink struct {
	store *snapshots
	index uint64
	id    string
	name  string   // while it isn't whole
	file  *os.File // nil when it is closed
	out   *bufio.Writer
	sum   hash.Hash32
}

// ID is raft.SnapshotSink.
func (s *snapshotSink) ID() string { return s.id }

// Write is raft.SnapshotSink.
func (s *snapshotSink) Write(b []byte) (int, error) {
	s.sum.Write(b)
	return s.out.Write(b)
}

// Close is raft.SnapshotSink.
func (s *snapshotSink) Close() error {
	if s.file == nil {
		return nil
	}
	_, err := s.out.Write(binary.LittleEndian.AppendUint32(nil, s.sum.Sum32()))
	err = errors.Join(err, s.out.Flush(), s.file.Sync())
	if err != nil {
		return errors.Join(fmt.Errorf("write snapshot %s: %w", s.id, err), s.Cancel())
	}
	err = s.file.Close()
	s.file = nil
	if err != nil {
		return err
	}
	if err := os.Rename(s.name, filepath.Join(s.store.dir, s.id)); err != nil {
		return err
	}
	if err := syncDir(s.store.dir); err != nil {
		return err
	}
	s.store.wrote(s.index)
	return s.store.prune()
}

// Cancel is raft.SnapshotSink.
func (s *snapshotSink) Cancel() error {
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Close(), os.Remove(s.name))
	s.file = nil
	return err
}
