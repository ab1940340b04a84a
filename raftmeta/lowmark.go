package raftmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A lowMark remembers, outside the bbolt file, an entry that the log held. A
// bit that flips in a page of bbolt can make it find an older page in place of
// a newer one; both are whole, and only the mark tells that entries are gone.
//
// It is written after each append and not synced: it may fall behind when the
// machine dies, and a mark that is too low is never wrong. It is synced before
// the end of the log is cut off.
type lowMark struct {
	file  *os.File
	index uint64 // the log holds all up to it
	term  uint64 // of that entry; 0 when it isn't known
}

const (
	markMagic = "TRLM"
	markBytes = 4 + 8 + 8 + 4
)

func openLowMark(path string) (*lowMark, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	m := &lowMark{file: file}
	b := make([]byte, markBytes+1)
	n, err := file.ReadAt(b, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
	case n == 0:
		return m, nil
	case n != markBytes || string(b[:4]) != markMagic || crc32.Checksum(b[:markBytes-4], castagnoli) != binary.LittleEndian.Uint32(b[markBytes-4:]):
		err = &DamagedError{path, "its start", errEntryChecksum}
	default:
		m.index, m.term = binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:])
		return m, nil
	}
	return nil, errors.Join(err, file.Close())
}

func (m *lowMark) set(index, term uint64, sync bool) error {
	b := append(make([]byte, 0, markBytes), markMagic...)
	b = binary.LittleEndian.AppendUint64(b, index)
	b = binary.LittleEndian.AppendUint64(b, term)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := m.file.WriteAt(b, 0); err != nil {
		return fmt.Errorf("note the end of the log: %w", err)
	}
	if sync {
		if err := unix.Fdatasync(int(m.file.Fd())); err != nil {
			return fmt.Errorf("note the end of the log: %w", err)
		}
	}
	m.index, m.term = index, term
	return nil
}

func (m *lowMark) close() error { return m.file.Close() }
