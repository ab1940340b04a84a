package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"trestle/shuffle/driver"

	"github.com/cespare/xxhash/v2"
)

// An object is a head and, behind it, frames in the order of their
// sub-partitions, one for each block. The head tells whose object it is, how
// long it is, and where in it readers of a range of sub-partitions may begin
// and end; a frame tells all of its block. So a reader needs one request for
// the head, which brings a small partition whole, and one for its range.
//
// The head comes first because all is known when the upload begins. An object
// that isn't as long as its head says is damaged, as a file without footer is.
const (
	magic     = 0x31304231504c5254 // "TRLP1B01"
	prefixLen = 16                 // of the head: magic, its length, zero
	sumLen    = 8
	frameLen  = 24 // of a frame before its payload

	// mostHead bounds what a reader takes for a head. Ours are far shorter:
	// names and some landmarks.
	mostHead = firstBytes
	// mostNames is how long a job's and a dataset's name may be together.
	mostNames = 16 << 10
	// landmarks is about how many places a head names at most. A reader skips
	// up to a landmark's distance on both sides of its range.
	landmarks = 512
	// leastStretch is the least distance between landmarks.
	leastStretch = 64 << 10
)

var errDamaged = errors.New("its head is damaged")

// A head is what an object begins with.
type head struct {
	id    driver.PartitionID
	subs  int
	nonce uint64 // of the writer: tells its own object from a twin's
	size  int64  // of all frames
	marks []mark // ascending; the first, if any, is at 0
}

// A mark is a frame at which reading may begin: the first of its
// sub-partition.
type mark struct {
	sub int
	off int64 // from the end of the head
}

// span is where, behind the head, the frames of [lo, hi) are, and others
// perhaps before and behind them.
func (h *head) span(lo, hi int) (from, to int64) {
	from, to = 0, h.size
	for _, m := range h.marks {
		if m.sub <= lo {
			from = m.off
		}
		if m.sub >= hi {
			return min(from, m.off), m.off
		}
	}
	return from, to
}

// appendHead appends h as it stands in an object.
func appendHead(dst []byte, h *head) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, magic)
	dst = binary.LittleEndian.AppendUint64(dst, 0) // the length, below
	for _, name := range []string{h.id.Job, h.id.Dataset} {
		dst = binary.AppendUvarint(dst, uint64(len(name)))
		dst = append(dst, name...)
	}
	dst = binary.AppendUvarint(dst, uint64(h.id.Index))
	dst = binary.AppendUvarint(dst, uint64(h.id.Attempt))
	dst = binary.AppendUvarint(dst, uint64(h.subs))
	dst = binary.LittleEndian.AppendUint64(dst, h.nonce)
	dst = binary.AppendUvarint(dst, uint64(h.size))
	dst = binary.AppendUvarint(dst, uint64(len(h.marks)))
	last := mark{}
	for _, m := range h.marks {
		dst = binary.AppendUvarint(dst, uint64(m.sub-last.sub))
		dst = binary.AppendUvarint(dst, uint64(m.off-last.off))
		last = m
	}
	binary.LittleEndian.PutUint64(dst[start+8:], uint64(len(dst)-start+sumLen))
	return binary.LittleEndian.AppendUint64(dst, xxhash.Sum64(dst[start:]))
}

// headLen tells how long the head is that begins with these bytes.
func headLen(prefix []byte) (int, error) {
	if len(prefix) < prefixLen || binary.LittleEndian.Uint64(prefix) != magic {
		return 0, errDamaged
	}
	n := binary.LittleEndian.Uint64(prefix[8:])
	if n < prefixLen+sumLen || n > mostHead {
		return 0, errDamaged
	}
	return int(n), nil
}

// parseHead reads a head; b is all of it and no more.
func parseHead(b []byte) (*head, error) {
	n, err := headLen(b)
	if err != nil || n != len(b) {
		return nil, errDamaged
	}
	body := b[:n-sumLen]
	if xxhash.Sum64(body) != binary.LittleEndian.Uint64(b[n-sumLen:]) {
		return nil, errDamaged
	}
	r := driver.Fields{B: body[prefixLen:]}
	h := &head{}
	for _, name := range []*string{&h.id.Job, &h.id.Dataset} {
		*name = string(r.Bytes(r.Number(mostHead)))
	}
	h.id.Index, h.id.Attempt = r.Number(math.MaxInt32), uint32(r.Number(math.MaxUint32))
	h.subs = r.Number(math.MaxInt32)
	if nonce := r.Bytes(8); len(nonce) == 8 {
		h.nonce = binary.LittleEndian.Uint64(nonce)
	}
	h.size = int64(r.Number(math.MaxInt64 / 2))
	count := r.Number(len(body)) // a mark has more than one byte
	h.marks = make([]mark, 0, count)
	last := mark{}
	for i := range count {
		m := mark{sub: last.sub + r.Number(math.MaxInt32), off: last.off + int64(r.Number(math.MaxInt64/2))}
		apart := i == 0 && m.off == 0 || i > 0 && m.sub > last.sub && m.off > last.off
		if r.Bad || !apart || m.sub >= h.subs || m.off >= h.size {
			return nil, errDamaged
		}
		h.marks = append(h.marks, m)
		last = m
	}
	if r.Bad || len(r.B) != 0 || h.subs < 1 || (h.size > 0) != (count > 0) {
		return nil, errDamaged
	}
	return h, nil
}

// A frame is what stands before a block's payload.
type frame struct {
	sub    int
	count  int
	raw    int // bytes of the elements
	stored int // bytes of the payload
	packed bool
	sum    uint64 // see checksum
}

// put writes f, whose sum is that of all else.
func (f *frame) put(dst *[frameLen]byte) {
	// Fixed widths: positions are known before the sums are.
	binary.LittleEndian.PutUint32(dst[0:], uint32(f.sub))
	binary.LittleEndian.PutUint32(dst[4:], uint32(f.count))
	binary.LittleEndian.PutUint32(dst[8:], uint32(f.raw))
	stored := uint32(f.stored)
	if !f.packed {
		stored = math.MaxUint32 // no packed block is as long: it is shorter than raw
	}
	binary.LittleEndian.PutUint32(dst[12:], stored)
	binary.LittleEndian.PutUint64(dst[16:], f.sum)
}

// parseFrame reads what put has written.
func parseFrame(b *[frameLen]byte) frame {
	f := frame{
		sub:    int(binary.LittleEndian.Uint32(b[0:])),
		count:  int(binary.LittleEndian.Uint32(b[4:])),
		raw:    int(binary.LittleEndian.Uint32(b[8:])),
		stored: int(binary.LittleEndian.Uint32(b[12:])),
		packed: true,
		sum:    binary.LittleEndian.Uint64(b[16:]),
	}
	if f.stored == math.MaxUint32 {
		f.stored, f.packed = f.raw, false
	}
	return f
}

// checksum ties a payload, whose own hash is given, to its description, its
// place behind the head and its partition, so that the right bytes of another
// block are wrong.
func (f *frame) checksum(payload, seed uint64, off int64) uint64 {
	g := *f
	g.sum = uint64(off)
	var b [frameLen]byte
	g.put(&b)
	return bits.RotateLeft64(payload, 21) ^ xxhash.Sum64(b[:]) ^ seed
}

// seedOf is different for different partitions, and for different writers of
// one.
func seedOf(id driver.PartitionID, nonce uint64) uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%q %q %d %d %d", id.Job, id.Dataset, id.Index, id.Attempt, nonce))
}
