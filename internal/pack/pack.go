// Package pack compresses blocks of elements where that pays.
//
// Whether it pays is tried on the data itself: a block that hardly shrinks is
// left as it is, and after some of those a Packer tries only now and then, for
// trying costs nearly as much as compressing. Packed bytes carry no checksum;
// who writes them to a disk adds one.
package pack

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/klauspost/compress/s2"
)

// MaxLen is the room that Append wants for n bytes, or -1 if n is too many.
func MaxLen(n int) int { return s2.MaxEncodedLen(n) }

// mostUntried bounds how many blocks go by untried.
const mostUntried = 15

// A Packer packs blocks that are more or less alike. The zero value is ready,
// and is safe for concurrent use.
type Packer struct {
	untried atomic.Int32 // blocks to go by before the next try
	pause   atomic.Int32 // what untried was set to last
}

// Append appends src to dst, packed or as it is, and tells which; packed is
// always shorter. dst must have
// room for MaxLen(len(src)) bytes.
func (p *Packer) Append(dst, src []byte) (out []byte, packed bool) {
	if p.untried.Add(-1) >= 0 {
		return append(dst, src...), false
	}
	enc := s2.Encode(dst[len(dst):cap(dst)], src)
	if len(enc) >= len(src)-len(src)/8 { // shorter in any case, if packed
		pause := min(2*p.pause.Load()+1, mostUntried)
		p.pause.Store(pause)
		p.untried.Store(pause)
		return append(dst, src...), false
	}
	p.pause.Store(0)
	p.untried.Store(0)
	return dst[:len(dst)+len(enc)], true
}

var errLength = errors.New("packed block has another length than was noted")

// Unpack fills dst with the bytes of a packed block. It fails if they are
// damaged, or more or fewer.
func Unpack(dst, block []byte) error {
	if n, err := s2.DecodedLen(block); err != nil || n != len(dst) {
		return errLength
	}
	if _, err := s2.Decode(dst, block); err != nil {
		return fmt.Errorf("packed block: %w", err)
	}
	return nil
}
