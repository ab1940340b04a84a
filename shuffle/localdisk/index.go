package localdisk

import (
	"encoding/binary"
	"errors"
	"io"
	"math"

	"trestle/shuffle/driver"
)

// A file is payloads in any order, the index, and the footer: the index's
// offset, length and checksum, and magic. 8 bytes each, little endian.
const (
	magic      = 0x31545241504c5254 // "TRLPART1"
	footerSize = 32
	// longestBlock is beyond what compression can do at once.
	longestBlock = 1 << 32
)

// How a block is stored.
const (
	inMemory   = iota // entry.data
	rawOnDisk         // as it is
	compressed        // by s2
)

// An entry says where a block is.
type entry struct {
	sub    int
	count  int
	raw    int // bytes of the elements
	kind   uint8
	stored int    // bytes on disk
	off    int64  // on disk
	sum    uint64 // of the bytes on disk, see driver.Checksum
	data   []byte // in memory
}

// appendIndex appends the index and the footer of a file whose payloads end at
// off.
func appendIndex(dst []byte, id driver.PartitionID, subpartitions int, entries []entry, off int64) []byte {
	start := len(dst)
	for _, name := range []string{id.Job, id.Dataset} {
		dst = binary.AppendUvarint(dst, uint64(len(name)))
		dst = append(dst, name...)
	}
	dst = binary.AppendUvarint(dst, uint64(id.Index))
	dst = binary.AppendUvarint(dst, uint64(id.Attempt))
	dst = binary.AppendUvarint(dst, uint64(subpartitions))
	dst = binary.AppendUvarint(dst, uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		dst = binary.AppendUvarint(dst, uint64(e.sub))
		dst = binary.AppendUvarint(dst, uint64(e.count))
		dst = binary.AppendUvarint(dst, uint64(e.raw))
		dst = append(dst, e.kind)
		dst = binary.AppendUvarint(dst, uint64(e.stored))
		dst = binary.AppendUvarint(dst, uint64(e.off))
		dst = binary.LittleEndian.AppendUint64(dst, e.sum)
	}
	return appendFooter(dst, dst[start:], off)
}

func appendFooter(dst, index []byte, off int64) []byte {
	length := len(index)
	sum := footerSum(index, off)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(off))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(length))
	dst = binary.LittleEndian.AppendUint64(dst, sum)
	return binary.LittleEndian.AppendUint64(dst, magic)
}

func footerSum(index []byte, off int64) uint64 { return driver.Checksum(index, magic, off) }

var errDamaged = errors.New("its index is damaged")

// readIndex reads and checks the index of a finished file.
func readIndex(path string) (id driver.PartitionID, subpartitions int, entries []entry, err error) {
	index, end, err := readIndexBytes(path)
	if err != nil {
		return id, 0, nil, err
	}
	return parseIndex(index, end)
}

// parseIndex reads an index of payloads that end at end.
func parseIndex(index []byte, end int64) (id driver.PartitionID, subpartitions int, entries []entry, err error) {
	r := driver.Fields{B: index}
	for _, name := range []*string{&id.Job, &id.Dataset} {
		*name = string(r.Bytes(r.Number(len(index))))
	}
	id.Index, id.Attempt = r.Number(math.MaxInt32), uint32(r.Number(math.MaxUint32))
	subpartitions = r.Number(math.MaxInt32)
	n := r.Number(len(index)) // an entry has more than one byte
	entries = make([]entry, 0, n)
	for range n {
		e := entry{sub: r.Number(math.MaxInt32), count: r.Number(math.MaxInt), raw: r.Number(longestBlock)}
		if k := r.Bytes(1); len(k) == 1 {
			e.kind = k[0]
		}
		e.stored = r.Number(math.MaxInt)
		e.off = int64(r.Number(math.MaxInt))
		if s := r.Bytes(8); len(s) == 8 {
			e.sum = binary.LittleEndian.Uint64(s)
		}
		known := e.kind == compressed || e.kind == rawOnDisk && e.raw == e.stored
		if r.Bad || e.sub >= subpartitions || !known || e.off > end || int64(e.stored) > end-e.off {
			return id, 0, nil, errDamaged
		}
		entries = append(entries, e)
	}
	if len(r.B) != 0 {
		return id, 0, nil, errDamaged
	}
	return id, subpartitions, entries, nil
}

// readIndexBytes gives the index whose checksum is right, and where payloads
// end.
func readIndexBytes(path string) (index []byte, end int64, err error) {
	f, err := openFile(path, nil)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := info.Size()
	if size < footerSize {
		return nil, 0, errDamaged
	}
	var footer [footerSize]byte
	if _, err := f.ReadAt(footer[:], size-footerSize); err != nil {
		return nil, 0, err
	}
	off := binary.LittleEndian.Uint64(footer[0:])
	length := binary.LittleEndian.Uint64(footer[8:])
	if binary.LittleEndian.Uint64(footer[24:]) != magic || off > uint64(size) || length != uint64(size)-footerSize-off {
		return nil, 0, errDamaged
	}
	index = make([]byte, length)
	if _, err := f.ReadAt(index, int64(off)); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if footerSum(index, int64(off)) != binary.LittleEndian.Uint64(footer[16:]) {
		return nil, 0, errDamaged
	}
	return index, int64(off), nil
}
