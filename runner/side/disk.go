package side

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sort"
	"sync"
)

const (
	// A segment on disk: CRC-32C of the rest of the header and the key,
	// CRC-32C of the values, window, hash, length of key, length of values,
	// count (its highest bit: last of the group); then key and values.
	headerBytes = 4 + 4 + 4 + 8 + 4 + 4 + 4
	lastFlag    = 1 << 31

	indexEvery  = 32 << 10 // bytes of the file
	indexBytes  = 24       // of memory, for each entry
	cursorBytes = 16 << 10
	bufferBytes = 64 << 10 // of a file that is written, or read to be merged
	fanIn       = 32
)

var (
	errCorrupt = errors.New("side input: temporary file is corrupt")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// tempFile returns a file that vanishes with the process.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "side-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// An indexEntry says where a group begins.
type indexEntry struct {
	hash   uint64
	off    int64
	window uint32
}

// A writer writes segments; values of one group must come one after the other.
type writer struct {
	file    *bufio.Writer
	off     int64
	index   []indexEntry
	segment int // bytes of one, unless one value is longer

	open   bool // there is a segment under way
	first  bool // it is the first of its group
	seg    segment
	key    []byte // of seg
	buf    []byte // values of seg
	header [headerBytes]byte
}

func newWriter(f *os.File, segment int) *writer {
	return &writer{file: bufio.NewWriterSize(f, bufferBytes), segment: segment}
}

// add appends count values to a group.
func (w *writer) add(window uint32, hash uint64, key, values []byte, count int) error {
	same := w.open && w.seg.window == window && w.seg.hash == hash && bytes.Equal(w.key, key)
	if same && len(w.buf)+len(values) <= w.segment {
		w.buf = append(w.buf, values...)
		w.seg.count += count
		return nil
	}
	if w.open {
		if err := w.flush(!same); err != nil {
			return err
		}
	}
	w.open, w.first = true, !same
	w.seg = segment{window: window, hash: hash, count: count}
	w.key = append(w.key[:0], key...)
	w.buf = append(w.buf[:0], values...)
	return nil
}

// flush writes the segment under way.
func (w *writer) flush(last bool) error {
	if n := len(w.index); w.first && (n == 0 || w.off-w.index[n-1].off >= indexEvery) {
		w.index = append(w.index, indexEntry{hash: w.seg.hash, off: w.off, window: w.seg.window})
	}
	count := uint32(w.seg.count)
	if last {
		count |= lastFlag
	}
	h := w.header[:0]
	h = binary.LittleEndian.AppendUint32(h, 0)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(w.buf, castagnoli))
	h = binary.LittleEndian.AppendUint32(h, w.seg.window)
	h = binary.LittleEndian.AppendUint64(h, w.seg.hash)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(w.key)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(w.buf)))
	h = binary.LittleEndian.AppendUint32(h, count)
	binary.LittleEndian.PutUint32(h, headerSum(h, w.key))
	for _, part := range [][]byte{h, w.key, w.buf} {
		if _, err := w.file.Write(part); err != nil {
			return err
		}
		w.off += int64(len(part))
	}
	if cap(w.buf) > 4*maxSegmentBytes { // a long value went by
		w.buf = nil
	}
	return nil
}

// finish writes what is left.
func (w *writer) finish() error {
	if w.open {
		if err := w.flush(true); err != nil {
			return err
		}
	}
	return w.file.Flush()
}

func headerSum(header, key []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[4:], castagnoli), castagnoli, key)
}

// parseHeader reads a header; the caller checks its sum once it has the key.
func parseHeader(h []byte) (s segment, keyLen int, valueSum uint32) {
	count := binary.LittleEndian.Uint32(h[28:])
	s.window = binary.LittleEndian.Uint32(h[8:])
	s.hash = binary.LittleEndian.Uint64(h[12:])
	s.size = int(binary.LittleEndian.Uint32(h[24:]))
	s.count = int(count &^ lastFlag)
	s.last = count&lastFlag != 0
	return s, int(binary.LittleEndian.Uint32(h[20:])), binary.LittleEndian.Uint32(h[4:])
}

// spill writes the elements gathered so far as a sorted run, and forgets them.
// Their buffers stay for the next ones.
func (b *builder) spill() error {
	b.sort()
	f, err := tempFile(b.opt.Dir)
	if err != nil {
		return fmt.Errorf("spill side input: %w", err)
	}
	b.runs = append(b.runs, f)
	w := newWriter(f, b.segment())
	for i := range b.recs {
		r := &b.recs[i]
		if err := w.add(r.window, r.hash, keyOf(b.chunks, r), valueOf(b.chunks, r), 1); err != nil {
			return fmt.Errorf("spill side input: %w", err)
		}
	}
	if err := w.finish(); err != nil {
		return fmt.Errorf("spill side input: %w", err)
	}
	b.recs = b.recs[:0]
	b.full, b.sorted = 0, true
	for i := range b.chunks {
		b.chunks[i] = b.chunks[i][:0]
	}
	return nil
}

// onDisk merges the runs into one file.
func (b *builder) onDisk(ctx context.Context) (*View, error) {
	if len(b.recs) > 0 {
		if err := b.spill(); err != nil {
			return nil, err
		}
	}
	b.chunks, b.recs = nil, nil
	give(b.opt.Budget, &b.taken)
	b.take(fanIn * (bufferBytes + maxSegmentBytes))
	var index []indexEntry
	for first := true; first || len(b.runs) > 1; first = false {
		todo := len(b.runs)
		for todo > 0 {
			// Neighbours are merged, so that values keep the order they came in.
			n := min(todo, fanIn)
			merged, idx, err := b.merge(ctx, b.runs[:n])
			if err != nil {
				return nil, fmt.Errorf("merge side input: %w", err)
			}
			for _, run := range b.runs[:n] {
				run.Close()
			}
			b.runs = append(b.runs[n:], merged)
			index = idx
			todo -= n
		}
	}
	give(b.opt.Budget, &b.taken)
	b.take(int64(len(index)) * indexBytes)
	f := b.runs[0]
	b.runs = nil
	return b.view(&file{f: f, index: slices.Clip(index)}), nil
}

func (b *builder) merge(ctx context.Context, runs []*os.File) (merged *os.File, index []indexEntry, err error) {
	var heads runHeap
	for i, f := range runs {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, nil, err
		}
		r := &runReader{file: bufio.NewReaderSize(f, bufferBytes), order: i}
		if err := r.next(); err == nil {
			heads = append(heads, r)
		} else if err != io.EOF {
			return nil, nil, err
		}
	}
	heap.Init(&heads)
	merged, err = tempFile(b.opt.Dir)
	if err != nil {
		return nil, nil, err
	}
	w := newWriter(merged, b.segment())
	for n := 0; len(heads) > 0 && err == nil; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		r := heads[0]
		if err = w.add(r.seg.window, r.seg.hash, r.seg.key, r.buf, r.seg.count); err != nil {
			break
		}
		if err = r.next(); err == io.EOF {
			heap.Pop(&heads)
			err = nil
		} else {
			heap.Fix(&heads, 0)
		}
	}
	if err == nil {
		err = w.finish()
	}
	if err != nil {
		merged.Close()
		return nil, nil, err
	}
	return merged, w.index, nil
}

// A runReader reads a run from its beginning.
type runReader struct {
	file   *bufio.Reader
	order  int // of the run among all
	seg    segment
	buf    []byte // its values
	header [headerBytes]byte
}

func (r *runReader) next() error {
	if _, err := io.ReadFull(r.file, r.header[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = errCorrupt
		}
		return err
	}
	seg, keyLen, valueSum := parseHeader(r.header[:])
	// The lengths aren't checked yet: read as much as there is, not as much as
	// they say.
	key, err := readExactly(r.file, r.seg.key[:0], keyLen)
	if err != nil {
		return err
	}
	if headerSum(r.header[:], key) != binary.LittleEndian.Uint32(r.header[:]) {
		return errCorrupt
	}
	if r.buf, err = readExactly(r.file, r.buf[:0], seg.size); err != nil {
		return err
	}
	if crc32.Checksum(r.buf, castagnoli) != valueSum {
		return errCorrupt
	}
	seg.key = key
	r.seg = seg
	return nil
}

// readExactly appends n bytes to dst. It allocates as they arrive.
func readExactly(f io.Reader, dst []byte, n int) ([]byte, error) {
	for n > 0 {
		step := min(n, 1<<20)
		at := len(dst)
		dst = slices.Grow(dst, step)[:at+step]
		if _, err := io.ReadFull(f, dst[at:]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = errCorrupt
			}
			return nil, err
		}
		n -= step
	}
	return dst, nil
}

type runHeap []*runReader

func (h runHeap) Len() int { return len(h) }
func (h runHeap) Less(i, j int) bool {
	x, y := h[i], h[j]
	return cmp.Or(cmp.Compare(x.seg.window, y.seg.window), cmp.Compare(x.seg.hash, y.seg.hash),
		bytes.Compare(x.seg.key, y.seg.key), cmp.Compare(x.order, y.order)) < 0
}
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(any)     { panic("a merge gains no runs") }
func (h *runHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// file is a store on disk; positions are offsets.
type file struct {
	f     *os.File
	index []indexEntry
}

func (d *file) seek(c *cursor, window uint32, hash uint64) (int64, error) {
	after := sort.Search(len(d.index), func(i int) bool {
		e := d.index[i]
		return e.window > window || e.window == window && e.hash >= hash
	})
	var pos int64
	if after > 0 {
		pos = d.index[after-1].off
	}
	for {
		s, err := d.head(c, pos)
		if err == io.EOF {
			return pos, nil
		}
		if err != nil || s.window > window || s.window == window && s.hash >= hash {
			return pos, err
		}
		pos = s.next
	}
}

func (d *file) head(c *cursor, pos int64) (segment, error) {
	h, err := c.at(d.f, pos, headerBytes)
	if err != nil {
		return segment{}, err
	}
	_, keyLen, _ := parseHeader(h)
	if h, err = c.at(d.f, pos, headerBytes+keyLen); err != nil {
		return segment{}, unexpected(err)
	}
	s, _, _ := parseHeader(h)
	s.key = h[headerBytes:]
	if headerSum(h[:headerBytes], s.key) != binary.LittleEndian.Uint32(h) {
		return segment{}, errCorrupt
	}
	s.pos, s.next = pos, pos+int64(len(h)+s.size)
	return s, nil
}

func (d *file) values(dst []byte, s *segment) ([]byte, error) {
	var sum [4]byte
	if _, err := d.f.ReadAt(sum[:], s.pos+4); err != nil {
		return nil, unexpected(err)
	}
	at := len(dst)
	dst = slices.Grow(dst, s.size)[:at+s.size]
	if _, err := d.f.ReadAt(dst[at:], s.next-int64(s.size)); err != nil {
		return nil, unexpected(err)
	}
	if crc32.Checksum(dst[at:], castagnoli) != binary.LittleEndian.Uint32(sum[:]) {
		return nil, errCorrupt
	}
	return dst, nil
}

func (d *file) close() { d.f.Close() }

// A cursor holds a stretch of a file, for reading headers that lie together.
type cursor struct {
	buf []byte
	off int64 // of buf in the file
}

var cursors = sync.Pool{New: func() any { return new(cursor) }}

func newCursor() *cursor {
	c := cursors.Get().(*cursor)
	c.buf = c.buf[:0]
	return c
}

func (c *cursor) free() {
	if cap(c.buf) <= 4*cursorBytes {
		cursors.Put(c)
	}
}

// at returns n bytes from pos; io.EOF if the file is shorter. They are valid
// until the next call.
func (c *cursor) at(f *os.File, pos int64, n int) ([]byte, error) {
	if pos >= c.off && pos+int64(n) <= c.off+int64(len(c.buf)) {
		i := int(pos - c.off)
		return c.buf[i : i+n : i+n], nil
	}
	want := max(n, cursorBytes)
	if cap(c.buf) < want {
		if want > cursorBytes { // a length that no sum vouches for yet
			info, err := f.Stat()
			if err != nil {
				return nil, err
			}
			if pos+int64(n) > info.Size() {
				return nil, io.EOF
			}
		}
		c.buf = make([]byte, 0, want)
	}
	got, err := f.ReadAt(c.buf[:want], pos)
	c.buf, c.off = c.buf[:got], pos
	if got < n {
		if err == nil || err == io.EOF {
			err = io.EOF
		}
		return nil, err
	}
	return c.buf[:n:n], nil
}
