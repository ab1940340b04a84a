package joblog

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// A Reader reads one log from a position on. One goroutine uses it.
type Reader struct {
	store *Store
	log   *jobLog
	next  uint64 // number of the entry wanted next

	file   *os.File // the segment that holds it, where that is known
	first  uint64   // of that segment
	offset int64    // of the byte after the last entry read
}

// Read returns up to max entries, oldest first; none if there are no newer
// ones yet.
func (r *Reader) Read(max int) ([]Entry, error) {
	var out []Entry
	for len(out) < max {
		end, following, err := r.locate()
		if err != nil {
			return out, err
		}
		if r.file == nil {
			return out, nil
		}
		if out, err = r.readFile(out, max, end); err != nil {
			return out, err
		}
		if r.offset < end {
			continue // out is full
		}
		if following == 0 {
			return out, nil
		}
		r.closeFile()
		r.first = following
	}
	return out, nil
}

// Changed returns a channel that is closed once there are entries that Read
// has not returned. Ask for it before the Read that finds none.
func (r *Reader) Changed() <-chan struct{} {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next > r.next {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// Close lets go of the log.
func (r *Reader) Close() {
	r.closeFile()
	if r.log != nil {
		r.store.letGo(r.log)
		r.log = nil
	}
}

func (r *Reader) closeFile() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
	r.offset = 0
}

// locate opens the segment to read from, if it isn't open, and tells how far
// it may be read now and where the next one begins (0: there is none).
func (r *Reader) locate() (end int64, following uint64, err error) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	want := max(r.next, r.first)
	if r.file != nil {
		want = r.first
	}
	for i, g := range l.segments {
		if i+1 < len(l.segments) {
			following = l.segments[i+1].first
			if following <= want {
				continue
			}
		} else {
			following = 0
		}
		if r.file != nil && g.first == r.first {
			// The file that we hold open may have been thinned out since; ours is
			// still whole, and whole it was when it was closed.
			if g.thinned {
				return r.wholeSize(), following, nil
			}
			return g.bytes, following, nil
		}
		r.closeFile() // ours was dropped: go on with the next one
		if r.file, err = os.Open(filepath.Join(l.dir, g.name())); err != nil {
			r.file = nil
			return 0, 0, err
		}
		r.first = g.first
		return g.bytes, following, nil
	}
	r.closeFile()
	return 0, 0, nil
}

func (r *Reader) wholeSize() int64 {
	info, err := r.file.Stat()
	if err != nil {
		return r.offset
	}
	return info.Size()
}

// readFile adds entries from the open segment, up to byte end of it.
func (r *Reader) readFile(out []Entry, max int, end int64) ([]Entry, error) {
	in := bufio.NewReaderSize(io.NewSectionReader(r.file, r.offset, end-r.offset), 32<<10)
	for len(out) < max {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			head := append([]byte(nil), line...)
			var rest []byte
			if rest, err = in.ReadBytes('\n'); err == nil {
				line = append(head, rest...)
			}
		}
		if err == io.EOF {
			r.offset = end
			return out, nil
		}
		if err != nil {
			return out, err
		}
		r.offset += int64(len(line))
		e, err := decode(line)
		if err != nil || e.N < r.next {
			continue // a line that a person edited, or one before the position
		}
		e.Missing = e.N - r.next
		r.next = e.N + 1
		out = append(out, e)
	}
	return out, nil
}
