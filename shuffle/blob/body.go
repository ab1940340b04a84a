package blob

import (
	"io"
	"os"
	"slices"

	"trestle/shuffle/driver"
)

// A body is an object as it is uploaded, put together while it is read. It may
// be read again, and by several at once.
type body struct {
	size     int64
	head     []byte
	entries  []entry
	sums     []uint64 // of their frames
	at       []int64  // where each frame begins in the object
	spilled  *os.File
	headSize int64
}

// newBody lays out entries, which are sorted by sub-partition.
func newBody(id driver.PartitionID, subs int, nonce uint64, entries []entry, spilled *os.File) *body {
	b := &body{entries: entries, sums: make([]uint64, len(entries)), at: make([]int64, len(entries)), spilled: spilled}
	h := &head{id: id, subs: subs, nonce: nonce}
	seed := seedOf(id, nonce)
	for i := range entries {
		e := &entries[i]
		b.sums[i] = e.checksum(e.hash, seed, h.size)
		b.at[i] = h.size
		h.size += frameLen + int64(e.stored)
	}
	h.marks = marksOf(entries, b.at, h.size)
	b.head = appendHead(nil, h)
	b.headSize = int64(len(b.head))
	for i := range b.at {
		b.at[i] += b.headSize
	}
	b.size = b.headSize + h.size
	return b
}

// marksOf chooses where reading may begin: at the first frame of a
// sub-partition, and not too often.
func marksOf(entries []entry, at []int64, size int64) []mark {
	var marks []mark
	stretch := max(leastStretch, size/landmarks)
	for i := range entries {
		first := i == 0 || entries[i].sub != entries[i-1].sub
		if first && (i == 0 || at[i]-marks[len(marks)-1].off >= stretch) {
			marks = append(marks, mark{entries[i].sub, at[i]})
		}
	}
	return marks
}

// ReadAt is io.ReaderAt.
func (b *body) ReadAt(p []byte, off int64) (n int, err error) {
	if off < b.headSize {
		n = copy(p, b.head[off:])
	}
	i, found := slices.BinarySearch(b.at, off+int64(n))
	if !found {
		i-- // the frame in whose midst we begin
	}
	for ; n < len(p) && i >= 0 && i < len(b.entries); i++ {
		k, err := b.readEntry(p[n:], i, off+int64(n)-b.at[i])
		n += k
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readEntry reads a frame and its payload, from off on.
func (b *body) readEntry(p []byte, i int, off int64) (n int, err error) {
	e := &b.entries[i]
	if off < frameLen {
		var raw [frameLen]byte
		f := e.frame
		f.sum = b.sums[i]
		f.put(&raw)
		n = copy(p, raw[off:])
		off = frameLen
	}
	off -= frameLen
	if e.data != nil {
		return n + copy(p[n:], e.data[off:]), nil
	}
	want := p[n:min(int64(len(p)), int64(n)+int64(e.stored)-off)]
	if len(want) == 0 {
		return n, nil
	}
	k, err := b.spilled.ReadAt(want, e.at+off)
	if k == len(want) {
		err = nil
	} else if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n + k, err
}
