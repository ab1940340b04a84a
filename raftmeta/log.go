package raftmeta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"trestle/raftmeta/catalog"

	"golang.org/x/sys/unix"
)

// A Log is a journal in one directory. Only one process can have it open.
// Append and Compact may be called from any goroutine, once Replay has
// returned.
type Log struct {
	dir  string
	lock *os.File

	mu      sync.Mutex
	pending *group // appended, not yet being written; nil when there is none

	write    sync.Mutex // held while the file is written; taken before mu
	file     *os.File   // nil before Replay and after Close
	number   uint64     // of the file; each compaction begins the next
	batch    uint64     // the latest in the file
	size     int64      // of the file
	shrinkAt int64      // size at which compaction is worth its while
	buf      []byte     // of the batch being written
	err      error      // the first error of the file: nothing is appended after it
}

// A group is a batch being gathered. Its fields are set by who writes it, and
// read by the others after that, under Log.write.
type group struct {
	payloads [][]byte
	written  bool
	err      error
}

// compactAbove is the size below which a log is never compacted.
const compactAbove = 32 << 20

var errClosed = errors.New("journal is closed")

// Open takes the directory, which it creates if need be. Nothing is read
// before Replay.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open journal %s: another process has it: %w", dir, err)
	}
	return &Log{dir: dir, lock: lock}, nil
}

// Replay calls fold for every record, in order, and makes the log ready for
// Append. It is called once. What a crash left half written is cut off.
func (l *Log) Replay(ctx context.Context, fold func(catalog.Record) error) error {
	l.write.Lock()
	defer l.write.Unlock()
	if l.file != nil {
		return errors.New("journal was replayed before")
	}
	number, err := newest(l.dir)
	if err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	if number == 0 {
		return l.begin(1, func(func(catalog.Record) bool) {})
	}
	file, err := os.OpenFile(fileName(l.dir, number), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	if err := l.replayFile(ctx, file, fold); err != nil {
		_ = file.Close()
		return err
	}
	l.file, l.number = file, number
	l.shrinkAt = max(compactAbove, l.size+l.size/2)
	return nil
}

func (l *Log) replayFile(ctx context.Context, file *os.File, fold func(catalog.Record) error) error {
	end, batch, err := scan(ctx, file, fold)
	if err != nil {
		return err
	}
	stat, err := file.Stat()
	if err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	if stat.Size() > end {
		if err := file.Truncate(end); err != nil {
			return fmt.Errorf("cut the torn end of the journal: %w", err)
		}
		if err := file.Sync(); err != nil {
			return fmt.Errorf("cut the torn end of the journal: %w", err)
		}
	}
	if _, err := file.Seek(end, io.SeekStart); err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	l.size, l.batch = end, batch
	return nil
}

// Append returns once the records are on disk. They are there together or not
// at all, after those of every Append that returned earlier. An error is for
// good: the log must be opened again.
func (l *Log) Append(ctx context.Context, records ...catalog.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	payloads := make([][]byte, len(records))
	for i, r := range records {
		var err error
		if payloads[i], err = catalog.Encode(r); err != nil {
			return err
		}
	}
	l.mu.Lock()
	if l.pending == nil {
		l.pending = &group{}
	}
	g := l.pending
	g.payloads = append(g.payloads, payloads...)
	l.mu.Unlock()

	// Whoever of the group comes first writes for all of it; more may join
	// until then. Waiting is for the disk only, and so not given up with ctx.
	l.write.Lock()
	defer l.write.Unlock()
	if g.written {
		return g.err
	}
	l.mu.Lock()
	l.pending = nil
	l.mu.Unlock()
	g.err = l.writeBatch(g.payloads)
	g.written = true
	return g.err
}

// writeBatch writes and syncs one batch. The write lock is held.
func (l *Log) writeBatch(payloads [][]byte) error {
	if l.err != nil {
		return l.err
	}
	if l.file == nil {
		return errClosed
	}
	l.buf = l.buf[:0]
	for i, p := range payloads {
		l.buf = appendFrame(l.buf, l.batch+1, i == len(payloads)-1, p)
	}
	if _, err := l.file.Write(l.buf); err != nil {
		l.err = fmt.Errorf("append to journal: %w", err)
		return l.err
	}
	// The data and the file's size: all that reading it back needs.
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		l.err = fmt.Errorf("sync journal %s: %w", fileName(l.dir, l.number), err)
		return l.err
	}
	l.batch++
	l.size += int64(len(l.buf))
	return nil
}

// Compact puts the snapshot in place of all records so far, if the log has
// grown enough to make that worth its while. The snapshot must be what all
// appended records fold to, so no Append may be under way.
func (l *Log) Compact(ctx context.Context, snapshot func() iter.Seq[catalog.Record]) error {
	l.write.Lock()
	defer l.write.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case l.file == nil:
		return errClosed
	case l.size < l.shrinkAt:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	old, oldName := l.file, fileName(l.dir, l.number)
	if err := l.begin(l.number+1, snapshot()); err != nil {
		l.shrinkAt = 2 * l.size // the old file is as good as before; try again later
		return err
	}
	// The new file is in place; the old one is only in the way.
	_ = old.Close()
	_ = os.Remove(oldName)
	return nil
}

// begin makes the file with that number, holding the records, and goes on with
// it. It appears under its name when it is whole.
func (l *Log) begin(number uint64, records iter.Seq[catalog.Record]) error {
	name := fileName(l.dir, number)
	file, size, err := writeWhole(name+".new", records)
	if err != nil {
		_ = os.Remove(name + ".new")
		return fmt.Errorf("begin journal file: %w", err)
	}
	if err = os.Rename(name+".new", name); err == nil {
		err = syncDir(l.dir)
	}
	if err != nil {
		// Nobody knows now which file the next process will find.
		_ = file.Close()
		l.err = fmt.Errorf("begin journal file: %w", err)
		return l.err
	}
	l.file, l.number, l.size, l.batch = file, number, size, 1
	l.shrinkAt = max(compactAbove, 2*size)
	return nil
}

// writeWhole writes and syncs a file whose first batch is the records, and
// leaves it open for more.
func writeWhole(name string, records iter.Seq[catalog.Record]) (_ *os.File, size int64, err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	w := bufio.NewWriterSize(file, 1<<20) // it keeps the first error, for Flush to tell
	put := func(b []byte) {
		size += int64(len(b))
		_, _ = w.Write(b)
	}
	put([]byte(magic))
	var frame []byte
	for r := range records {
		payload, err := catalog.Encode(r)
		if err != nil {
			return nil, 0, err
		}
		frame = appendFrame(frame[:0], 1, false, payload)
		put(frame)
	}
	put(appendFrame(frame[:0], 1, true, nil))
	if err := w.Flush(); err != nil {
		return nil, 0, err
	}
	return file, size, file.Sync()
}

// Close lets go of the directory. Appends that come later fail.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	var errs []error
	if l.file != nil {
		errs = append(errs, l.file.Close())
		l.file = nil
	}
	if l.err == nil {
		l.err = errClosed
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close()) // gives up the lock, too
		l.lock = nil
	}
	return errors.Join(errs...)
}
