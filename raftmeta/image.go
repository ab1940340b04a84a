package raftmeta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"trestle/raftmeta/catalog"
)

// An image is the state at one place of the log, as a snapshot holds it and as
// it is sent to a node that has fallen behind: the magic, then the index (8
// bytes, little endian like all that follows), the batch that was not whole
// yet (term 8, number of the next part 2, length 4, bytes), the records that
// fold to the state, each with its length before it (4), a length of 0, and
// the CRC-32C of all before it (4).
const imageMagic = "trestle catalog1"

type image struct {
	index uint64
	parts parts
	state *catalog.State
}

// summed hashes what passes.
type summed struct {
	out io.Writer
	sum hash.Hash32
}

func (s *summed) Write(b []byte) (int, error) {
	s.sum.Write(b)
	return s.out.Write(b)
}

func (im *image) write(out io.Writer) error {
	buffered := bufio.NewWriterSize(out, 1<<20) // it keeps the first error, for Flush to tell
	w := &summed{buffered, crc32.New(castagnoli)}
	head := []byte(imageMagic)
	head = binary.LittleEndian.AppendUint64(head, im.index)
	head = binary.LittleEndian.AppendUint64(head, im.parts.term)
	head = binary.LittleEndian.AppendUint16(head, im.parts.next)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(im.parts.payload)))
	_, _ = w.Write(head)
	_, _ = w.Write(im.parts.payload)
	var length [4]byte
	for r := range im.state.Snapshot() {
		b, err := catalog.Encode(r)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(length[:], uint32(len(b)))
		_, _ = w.Write(length[:])
		_, _ = w.Write(b)
	}
	clear(length[:])
	_, _ = w.Write(length[:])
	binary.LittleEndian.PutUint32(length[:], w.sum.Sum32())
	_, _ = w.Write(length[:])
	return buffered.Flush()
}

func readImage(in io.Reader) (*image, error) {
	im := &image{state: catalog.NewState()}
	if err := im.read(in); err != nil {
		return nil, fmt.Errorf("read the image of the catalog: %w", err)
	}
	return im, nil
}

func (im *image) read(in io.Reader) error {
	sum := crc32.New(castagnoli)
	r := io.TeeReader(bufio.NewReaderSize(in, 1<<20), sum)
	head := make([]byte, len(imageMagic)+8+8+2+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head[:len(imageMagic)]) != imageMagic {
		return errors.New("it doesn't begin as one of this version does: use a newer program")
	}
	head = head[len(imageMagic):]
	im.index = binary.LittleEndian.Uint64(head)
	im.parts.term, im.parts.next = binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint16(head[16:])
	var err error
	if im.parts.payload, err = readSized(r, binary.LittleEndian.Uint32(head[18:])); err != nil {
		return err
	}
	for n := 0; ; n++ {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return err
		}
		size := binary.LittleEndian.Uint32(length[:])
		if size == 0 {
			break
		}
		b, err := readSized(r, size)
		if err != nil {
			return err
		}
		rec, err := catalog.Decode(b)
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		if err := im.state.Apply(rec); err != nil {
			return err
		}
	}
	want := sum.Sum32()
	var got [4]byte
	if _, err := io.ReadFull(r, got[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(got[:]) != want {
		return errEntryChecksum
	}
	return nil
}

// readSized reads what has that length, which may be a lie.
func readSized(r io.Reader, size uint32) ([]byte, error) {
	if size > maxBatchBytes {
		return nil, fmt.Errorf("something of %d bytes in it is longer than anything may be", size)
	}
	if size > 1<<20 { // grow with what is really there
		b, err := io.ReadAll(io.LimitReader(r, int64(size)))
		if err == nil && len(b) < int(size) {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}
