// Package records makes numbered records of incompressible bytes, and knows
// what must come out of a pipeline that groups them.
//
// Record i has a key, which is one of few, and a value in which i and a stream
// of random bytes seeded by i are hidden. Who sees the two can tell i and
// whether every byte is right. The sums of all i and of their squares are known
// in closed form: a record lost, made twice or changed shows in them, or in the
// count, or in the number of wrong records, without anybody keeping a list.
package records

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/big"
)

// Sizes of a record's parts, in bytes.
const (
	KeyBytes   = 8
	ValueBytes = 92
	Bytes      = KeyBytes + ValueBytes
)

// Config says which records there are. All its numbers are at least 1.
type Config struct {
	Records int64
	Keys    int64 // record i has key i mod Keys
	Splits  int64 // pieces that the source is cut into before it is read
}

// Multiplication by an odd number is a bijection of the 64-bit integers, and
// its inverse is the multiplication by another one.
const (
	hide   = 0x9e3779b97f4a7c15
	reveal = 0xf1de83e19937733d
)

// fill makes record i in a buffer of Bytes.
func (c Config) fill(b []byte, i int64) {
	binary.LittleEndian.PutUint64(b, uint64(i%c.Keys+1)*hide)
	v := b[KeyBytes:]
	binary.LittleEndian.PutUint64(v, uint64(i+1)*hide)
	seed := uint64(i)
	rest := v[8:]
	for len(rest) >= 8 {
		binary.LittleEndian.PutUint64(rest, random(&seed))
		rest = rest[8:]
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], random(&seed))
	copy(rest, last[:])
}

// random is the next number of a splitmix64 generator.
func random(state *uint64) uint64 {
	*state += hide
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// number tells which record this is. It is not ok if any byte differs.
func (c Config) number(key, value, scratch []byte) (i int64, ok bool) {
	if len(key) != KeyBytes || len(value) != ValueBytes {
		return 0, false
	}
	i = int64(binary.LittleEndian.Uint64(value)*reveal) - 1
	if i < 0 || i >= c.Records {
		return 0, false
	}
	c.fill(scratch, i)
	return i, bytes.Equal(key, scratch[:KeyBytes]) && bytes.Equal(value, scratch[KeyBytes:])
}

// Totals are what a pipeline found; sums are modulo 2^64.
type Totals struct {
	Groups  int64
	Records int64
	Wrong   int64 // records that were never made
	Sum     uint64
	Squares uint64
}

func (t *Totals) add(u Totals) {
	t.Groups += u.Groups
	t.Records += u.Records
	t.Wrong += u.Wrong
	t.Sum += u.Sum
	t.Squares += u.Squares
}

func (t *Totals) count(i int64, ok bool) {
	t.Records++
	if !ok {
		t.Wrong++
		return
	}
	t.Sum += uint64(i)
	t.Squares += uint64(i) * uint64(i)
}

// Want are the totals of a pipeline without faults, in closed form.
func (c Config) Want() Totals {
	n := big.NewInt(c.Records)
	twice := new(big.Int).Mul(n, big.NewInt(c.Records-1)) // n(n-1): twice the sum
	six := new(big.Int).Mul(twice, big.NewInt(2*c.Records-1))
	return Totals{
		Groups: min(c.Keys, c.Records), Records: c.Records,
		Sum: lowOf(twice, 2), Squares: lowOf(six, 6),
	}
}

// lowOf is x / divisor modulo 2^64.
func lowOf(x *big.Int, divisor int64) uint64 {
	q := new(big.Int).Div(x, big.NewInt(divisor))
	return q.And(q, new(big.Int).SetUint64(math.MaxUint64)).Uint64()
}
