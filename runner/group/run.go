package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"trestle/internal/membudget"
	"trestle/internal/pack"

	"github.com/cespare/xxhash/v2"
)

// A run is a sorted sequence of records in a file without a name. It consists
// of blocks: a header and a payload that is compressed if that helps.
//
//	4 bytes  bytes of the payload
//	4 bytes  bytes of its records; equal to the former: not compressed
//	8 bytes  checksum of the above and the payload
//
// Numbers are little endian. Files never leave their process, so there is no
// version.
const (
	blockHeader = 16
	blockBytes  = 128 << 10 // of records, about
)

// A record is some values of one group.
type record struct {
	hash   uint64
	start  int64 // of the window of the one value, when merging windows
	ts     int64
	winLen int
	key    []byte // window and key
	count  int
	values []byte
}

// compare orders records as they are in runs.
func (r *record) compare(o *record) int {
	if c := order(r.hash, r.winLen, r.key, o.hash, o.winLen, o.key); c != 0 {
		return c
	}
	switch {
	case r.start < o.start:
		return -1
	case r.start > o.start:
		return 1
	}
	return 0
}

// sameGroup reports whether both belong to one group.
func (r *record) sameGroup(o *record) bool {
	return order(r.hash, r.winLen, r.key, o.hash, o.winLen, o.key) == 0
}

func appendRecord(dst []byte, r *record) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, r.hash)
	dst = binary.AppendVarint(dst, r.start)
	dst = binary.AppendVarint(dst, r.ts)
	dst = binary.AppendUvarint(dst, uint64(r.winLen))
	dst = binary.AppendUvarint(dst, uint64(len(r.key)))
	dst = binary.AppendUvarint(dst, uint64(r.count))
	dst = binary.AppendUvarint(dst, uint64(len(r.values)))
	dst = append(dst, r.key...)
	return append(dst, r.values...)
}

const mostRecordHeader = 8 + 6*binary.MaxVarintLen64

var errRun = errors.New("spilled run is damaged")

// cutRecord cuts the first record off b. The record aliases b.
func cutRecord(b []byte, r *record) (rest []byte, err error) {
	if len(b) < 8 {
		return nil, errRun
	}
	r.hash = binary.LittleEndian.Uint64(b)
	b = b[8:]
	var n int
	for _, field := range []*int64{&r.start, &r.ts} {
		if *field, n = binary.Varint(b); n <= 0 {
			return nil, errRun
		}
		b = b[n:]
	}
	var lengths [4]uint64
	for i := range lengths {
		if lengths[i], n = binary.Uvarint(b); n <= 0 {
			return nil, errRun
		}
		b = b[n:]
	}
	key, values := lengths[1], lengths[3]
	if key > uint64(len(b)) || values > uint64(len(b))-key || lengths[0] > key {
		return nil, errRun
	}
	r.winLen, r.count = int(lengths[0]), int(lengths[2])
	r.key = b[:key:key]
	r.values = b[key:][:values:values]
	return b[key+values:], nil
}

// A spillFile holds runs one after another.
type spillFile struct {
	f      *os.File
	end    int64
	packer pack.Packer
}

// newSpillFile makes a file that has no name any more, so that nothing is left
// behind.
func newSpillFile(dir string) (*spillFile, error) {
	f, err := os.CreateTemp(dir, "group-*")
	if err != nil {
		return nil, fmt.Errorf("create spill file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // the first error says it
		return nil, fmt.Errorf("unlink spill file: %w", err)
	}
	return &spillFile{f: f}, nil
}

func (s *spillFile) close() {
	if s != nil {
		_ = s.f.Close() // it was only a store for this process
	}
}

// A run is where its blocks are.
type run struct {
	file       *spillFile
	begin, end int64
}

// A runWriter writes one run to the end of a file.
type runWriter struct {
	budget *membudget.Budget
	run    run
	block  []byte // records, a chunk
	out    []byte // header and payload, a chunk
	packer *pack.Packer
}

func newRunWriter(budget *membudget.Budget, file *spillFile) *runWriter {
	return &runWriter{
		budget: budget,
		run:    run{file: file, begin: file.end, end: file.end},
		block:  budget.Chunk(blockBytes),
		packer: &file.packer,
	}
}

// add appends a record.
func (w *runWriter) add(r *record) error {
	need := mostRecordHeader + len(r.key) + len(r.values)
	if len(w.block)+need > cap(w.block) {
		if err := w.flush(); err != nil {
			return err
		}
		if need > cap(w.block) {
			w.budget.Free(w.block)
			w.block = w.budget.Chunk(need)
		}
	}
	w.block = appendRecord(w.block, r)
	return nil
}

// flush writes the block.
func (w *runWriter) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	most := pack.MaxLen(len(w.block))
	if most < 0 {
		return fmt.Errorf("spill %d bytes at once: too many", len(w.block))
	}
	if cap(w.out) < blockHeader+most {
		w.budget.Free(w.out)
		w.out = w.budget.Chunk(blockHeader + most)
	}
	out, _ := w.packer.Append(w.out[:blockHeader], w.block) // packed iff shorter
	payload := out[blockHeader:]
	binary.LittleEndian.PutUint32(out, uint32(len(payload)))
	binary.LittleEndian.PutUint32(out[4:], uint32(len(w.block)))
	binary.LittleEndian.PutUint64(out[8:], blockSum(out[:8], payload))
	if _, err := w.run.file.f.WriteAt(out, w.run.end); err != nil {
		return fmt.Errorf("write spill file: %w", err)
	}
	w.budget.Spilled(int64(len(out)))
	w.run.end += int64(len(out))
	w.run.file.end = w.run.end
	w.block = w.block[:0]
	return nil
}

func blockSum(lengths, payload []byte) uint64 {
	return xxhash.Sum64(payload) ^ binary.LittleEndian.Uint64(lengths)*0x9e3779b97f4a7c15
}

// finish writes what is left and gives the run.
func (w *runWriter) finish() (run, error) {
	err := w.flush()
	w.drop()
	return w.run, err
}

// drop frees the buffers.
func (w *runWriter) drop() {
	w.budget.Free(w.block)
	w.budget.Free(w.out)
	w.block, w.out = nil, nil
}

// A runReader reads the records of a run.
type runReader struct {
	budget *membudget.Budget
	run    run
	index  int    // of the run among those that are merged
	block  []byte // a chunk
	rest   []byte // of block
	record record // the current one; it aliases block
}

// next makes the next record the current one, or gives io.EOF.
func (r *runReader) next() error {
	if len(r.rest) == 0 {
		if err := r.readBlock(); err != nil {
			return err
		}
	}
	rest, err := cutRecord(r.rest, &r.record)
	r.rest = rest
	return err
}

func (r *runReader) readBlock() error {
	r.drop()
	if r.run.begin >= r.run.end {
		return io.EOF
	}
	var header [blockHeader]byte
	if _, err := r.run.file.f.ReadAt(header[:], r.run.begin); err != nil {
		return fmt.Errorf("read spill file: %w", err)
	}
	stored := int(binary.LittleEndian.Uint32(header[:]))
	raw := int(binary.LittleEndian.Uint32(header[4:]))
	if r.run.begin+blockHeader+int64(stored) > r.run.end {
		return errRun
	}
	payload := r.budget.Chunk(stored)[:stored]
	_, err := r.run.file.f.ReadAt(payload, r.run.begin+blockHeader)
	if err == nil && blockSum(header[:8], payload) != binary.LittleEndian.Uint64(header[8:]) {
		err = errRun
	}
	if err != nil {
		r.budget.Free(payload)
		return fmt.Errorf("read spill file: %w", err)
	}
	r.run.begin += blockHeader + int64(stored)
	if stored == raw {
		r.block, r.rest = payload, payload
		return nil
	}
	defer r.budget.Free(payload)
	r.block = r.budget.Chunk(raw)[:raw]
	if err := pack.Unpack(r.block, payload); err != nil {
		return fmt.Errorf("%w: %w", errRun, err)
	}
	r.rest = r.block
	return nil
}

// drop frees the block.
func (r *runReader) drop() {
	r.budget.Free(r.block)
	r.block, r.rest = nil, nil
}
