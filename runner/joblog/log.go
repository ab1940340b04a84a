package joblog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	segmentsPerLog = 16 // a log's bound is cut into so many files
	headSegments   = 2  // the first of them are never thinned out
	keptShare      = 4  // thinned files take at most 1/keptShare of the bound
)

// A segment is one file: the entries first … up to the next segment's first.
type segment struct {
	first   uint64
	bytes   int64
	thinned bool // only its important entries are left
}

func (g segment) name() string {
	if g.thinned {
		return fmt.Sprintf("%020d.kept", g.first)
	}
	return fmt.Sprintf("%020d.log", g.first)
}

// A jobLog is the log of one job.
type jobLog struct {
	job     string
	dir     string
	max     int64
	holders int // guarded by the store's mutex

	mu       sync.Mutex
	segments []segment // ascending; the last is the one that grows
	next     uint64    // number of the next entry
	file     *os.File  // the last segment, open for appending; nil if closed
	buf      []byte    // reused by append
	changed  chan struct{}
	told     map[string]uint64 // greatest Seq of each Source; nil until it is needed
}

// openLog reads what a directory holds. The directory need not be there.
func openLog(dir string, maxBytes int64) (*jobLog, error) {
	l := &jobLog{dir: dir, max: maxBytes, next: 1}
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	thinned := map[uint64]bool{}
	for _, f := range files {
		base, ext, _ := strings.Cut(f.Name(), ".")
		first, err := strconv.ParseUint(base, 10, 64)
		if err != nil || (ext != "log" && ext != "kept") {
			continue // a leftover of a thinning that was cut short, or a stranger's file
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		g := segment{first: first, bytes: info.Size(), thinned: ext == "kept"}
		thinned[first] = thinned[first] || g.thinned
		l.segments = append(l.segments, g)
	}
	// Where both files are there, thinning ended before it could remove the first.
	l.segments = slices.DeleteFunc(l.segments, func(g segment) bool { return thinned[g.first] && !g.thinned })
	slices.SortFunc(l.segments, func(a, b segment) int { return int(int64(a.first) - int64(b.first)) })
	return l, l.recover()
}

// recover finds the next number and cuts off a torn last line.
func (l *jobLog) recover() error {
	if len(l.segments) == 0 {
		return nil
	}
	g := &l.segments[len(l.segments)-1]
	l.next = g.first
	path := filepath.Join(l.dir, g.name())
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sound := int64(0)
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break // io.EOF: what is in line has no end, so it is torn
		}
		e, err := decode(line)
		if err != nil {
			break
		}
		sound += int64(len(line))
		l.next = e.N + 1
	}
	if sound < g.bytes {
		g.bytes = sound
		return os.Truncate(path, sound)
	}
	return nil
}

func (l *jobLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}

func (l *jobLog) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file != nil
}

func (l *jobLog) closeFile() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close() // nothing is buffered by us, and a log is not synced
		l.file = nil
	}
}

// append writes the entries, with one system call unless they are so many that the
// log has to be kept within its bound between them.
func (l *jobLog) append(entries []Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries, err := l.unheard(entries)
	if err != nil {
		return err
	}
	for len(entries) > 0 {
		n := l.fit(entries)
		if err := l.write(entries[:n]); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// writeShare of a log's bound is about what is written at once.
const writeShare = 32

// fit is how many of the entries are written at once: at least one.
func (l *jobLog) fit(entries []Entry) int {
	var bytes int64
	for i := range entries {
		if bytes += int64(min(len(entries[i].Text), MaxText)); i > 0 && bytes > l.max/writeShare {
			return i
		}
	}
	return len(entries)
}

// write writes entries with one system call.
func (l *jobLog) write(entries []Entry) error {
	if err := l.openFile(); err != nil {
		return err
	}
	l.buf = l.buf[:0]
	next := l.next
	for i := range entries {
		e := entries[i]
		e.N, e.Missing = next, 0
		e.Text = cut(e.Text, MaxText)
		e.Transform = cut(e.Transform, 4<<10)
		var err error
		if l.buf, err = encode(l.buf, &e); err != nil {
			return err
		}
		next++
	}
	g := &l.segments[len(l.segments)-1]
	if _, err := l.file.Write(l.buf); err != nil {
		// Perhaps half of it was written (a full disk): a later line must not
		// continue a torn one.
		return errors.Join(err, l.file.Truncate(g.bytes))
	}
	g.bytes += int64(len(l.buf))
	l.next = next
	for i := range entries {
		l.note(&entries[i])
	}
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.bound()
}

// unheard leaves out what came before. Entries of one call may share a number.
func (l *jobLog) unheard(entries []Entry) ([]Entry, error) {
	if !slices.ContainsFunc(entries, func(e Entry) bool { return e.Source != "" }) {
		return entries, nil
	}
	if l.told == nil {
		if err := l.recall(); err != nil {
			return nil, err
		}
	}
	var fresh []Entry
	for _, e := range entries {
		if e.Source == "" || e.Seq > l.told[e.Source] {
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

func (l *jobLog) note(e *Entry) {
	if e.Source != "" && l.told != nil {
		l.told[e.Source] = max(l.told[e.Source], e.Seq)
	}
}

// recall finds out what was told so far.
func (l *jobLog) recall() error {
	l.told = map[string]uint64{}
	for _, g := range l.segments {
		if g.bytes == 0 {
			continue
		}
		f, err := os.Open(filepath.Join(l.dir, g.name()))
		if err != nil {
			return err
		}
		r := bufio.NewReaderSize(f, 64<<10)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				break
			}
			if e, err := decode(line); err == nil {
				l.note(&e)
			}
		}
		f.Close()
	}
	return nil
}

// openFile makes l.file the segment that the next entries go to.
func (l *jobLog) openFile() error {
	n := len(l.segments)
	if n > 0 && !l.segments[n-1].thinned && l.segments[n-1].bytes < l.max/segmentsPerLog {
		if l.file != nil {
			return nil
		}
	} else {
		if l.file != nil {
			l.file.Close()
			l.file = nil
		}
		l.segments = append(l.segments, segment{first: l.next})
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(l.dir, l.segments[len(l.segments)-1].name()), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	l.file = f
	return err
}

// bound thins out the middle of a log that has outgrown its bound.
func (l *jobLog) bound() error {
	for {
		var total, kept int64
		oldestKept, oldestFull := -1, -1
		for i, g := range l.segments {
			total += g.bytes
			if g.thinned {
				kept += g.bytes
				if oldestKept < 0 {
					oldestKept = i
				}
			} else if i >= headSegments && oldestFull < 0 {
				oldestFull = i
			}
		}
		switch {
		case kept > l.max/keptShare:
			if err := l.drop(oldestKept); err != nil {
				return err
			}
		case total > l.max && oldestFull >= 0 && oldestFull < len(l.segments)-1:
			if err := l.thin(oldestFull); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (l *jobLog) drop(i int) error {
	err := os.Remove(filepath.Join(l.dir, l.segments[i].name()))
	l.segments = slices.Delete(l.segments, i, i+1)
	return err
}

// thin leaves only the important entries of a segment.
func (l *jobLog) thin(i int) error {
	full := l.segments[i]
	from, err := os.Open(filepath.Join(l.dir, full.name()))
	if err != nil {
		return err
	}
	defer from.Close()
	var kept []byte
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if e, err := decode(line); err == nil && e.Level >= Warn {
			kept = append(kept, line...)
		}
	}
	if len(kept) == 0 {
		return l.drop(i)
	}
	thinned := segment{first: full.first, bytes: int64(len(kept)), thinned: true}
	name := filepath.Join(l.dir, thinned.name())
	if err := os.WriteFile(name+".tmp", kept, 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	l.segments[i] = thinned
	return os.Remove(filepath.Join(l.dir, full.name()))
}

// cut shortens a text to max bytes and says so.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	n := max
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s… (%d bytes cut)", s[:n], len(s)-n)
}
