package driver

import "encoding/binary"

// Fields takes numbers and bytes off a byte slice, as indexes of partitions
// hold them. It remembers if the slice was too short or a number too great, and
// gives zeros from there on.
type Fields struct {
	B   []byte // what is left
	Bad bool
}

// Number takes an unsigned number of at most most.
func (r *Fields) Number(most int) int {
	v, n := binary.Uvarint(r.B)
	if n <= 0 || v > uint64(most) {
		r.Bad, r.B = true, nil
		return 0
	}
	r.B = r.B[n:]
	return int(v)
}

// Bytes takes n bytes.
func (r *Fields) Bytes(n int) []byte {
	if n > len(r.B) {
		r.Bad, r.B = true, nil
		return nil
	}
	b := r.B[:n]
	r.B = r.B[n:]
	return b
}
