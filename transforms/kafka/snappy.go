package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// xerial begins a batch that Java's clients have compressed: two versions of 4
// bytes each follow, and then blocks with their lengths before them.
var xerial = []byte("\x82SNAPPY\x00")

const (
	xerialHead = 16
	// snappyGain is more than snappy can make of a byte: a copy of 64 takes three.
	snappyGain = 64
)

var errSnappySize = errors.New("a block says that it holds more than it can")

// snappySizes checks what a batch says of its own sizes. Decoders believe it and
// make room for so much, 4 GiB for a few bytes.
func snappySizes(b []byte) error {
	if len(b) < xerialHead || !bytes.HasPrefix(b, xerial) {
		return snappySize(b)
	}
	for b = b[xerialHead:]; len(b) > 0; {
		if len(b) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := uint64(binary.BigEndian.Uint32(b))
		if b = b[4:]; n > uint64(len(b)) {
			return io.ErrUnexpectedEOF
		}
		if err := snappySize(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// snappySize checks one block, which begins with its plain size.
func snappySize(b []byte) error {
	if n, _ := binary.Uvarint(b); n > snappyGain*uint64(len(b)) {
		return errSnappySize
	}
	return nil
}
