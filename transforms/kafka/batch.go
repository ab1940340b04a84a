package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/segmentio/kafka-go/compress"
)

// A batch is the unit in which Kafka stores and sends records.
type batch struct {
	first, last int64 // the offsets that it stands for; records may be missing
	magic       int8  // 2, or 0 and 1 from before Kafka 0.11
	attributes  int16
	baseTime    int64 // what records' times are relative to
	maxTime     int64
	producer    int64
	count       int32  // of records
	body        []byte // the records, possibly compressed
	plain       bool   // body isn't compressed, any more or at all
}

// Attributes of a batch.
const (
	codecMask      = 0x07
	logAppendTime  = 0x08
	transactional  = 0x10
	control        = 0x20
	headV2         = 61 // bytes of a batch before its records
	headAny        = 17 // bytes up to and with the magic number
	prefix         = 12 // offset and length, which the length doesn't count
	checksummedV2  = 21 // where the checksummed part begins
	largestBatch   = 512 << 20
	offsetUnknown  = -1
	timeUnknown    = -1
	legacyHeadV0   = 14 // crc, magic, attributes, key and value lengths
	legacyTimeSize = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errCut says that the bytes end within a batch, as the last one of an answer
// may.
var errCut = errors.New("the batch is cut short")

// cutBatch takes the first batch off b. Its checksum is right.
func cutBatch(b []byte) (batch, []byte, error) {
	if len(b) < headAny {
		return batch{}, nil, errCut
	}
	first := int64(binary.BigEndian.Uint64(b))
	length := int(int32(binary.BigEndian.Uint32(b[8:])))
	magic := int8(b[16])
	switch {
	case length < legacyHeadV0 || first < 0:
		return batch{}, nil, fmt.Errorf("corrupt batch at offset %d: impossible length %d", first, length)
	case length > len(b)-prefix:
		return batch{}, nil, errCut
	}
	whole, rest := b[:prefix+length:prefix+length], b[prefix+length:]
	var out batch
	var err error
	switch magic {
	case 2:
		out, err = readHead(whole)
	case 0, 1:
		out, err = readMessage(whole)
	default:
		err = fmt.Errorf("format %d is unknown", magic)
	}
	if err != nil {
		return batch{}, nil, fmt.Errorf("corrupt batch at offset %d: %w", first, err)
	}
	return out, rest, nil
}

func readHead(b []byte) (batch, error) {
	if len(b) < headV2 {
		return batch{}, errors.New("it is shorter than a batch's head")
	}
	if want, got := binary.BigEndian.Uint32(b[17:]), crc32.Checksum(b[checksummedV2:], castagnoli); want != got {
		return batch{}, fmt.Errorf("checksum %08x, its head says %08x", got, want)
	}
	out := batch{
		first:      int64(binary.BigEndian.Uint64(b)),
		magic:      2,
		attributes: int16(binary.BigEndian.Uint16(b[21:])),
		baseTime:   int64(binary.BigEndian.Uint64(b[27:])),
		maxTime:    int64(binary.BigEndian.Uint64(b[35:])),
		producer:   int64(binary.BigEndian.Uint64(b[43:])),
		count:      int32(binary.BigEndian.Uint32(b[57:])),
		body:       b[headV2:],
	}
	delta := int32(binary.BigEndian.Uint32(b[23:]))
	if delta < 0 || out.count < 0 || int64(out.count) > int64(delta)+1 {
		return batch{}, fmt.Errorf("%d records in %d offsets", out.count, int64(delta)+1)
	}
	out.last = out.first + int64(delta)
	out.plain = out.attributes&codecMask == 0
	return out, nil
}

// readMessage reads a message of the old formats, which is a batch of one
// record, or of many in a compressed value. Only the last offset of a
// compressed one is known from outside, and its first not at all: it is the
// outer one in format 0 and 1 alike.
func readMessage(b []byte) (batch, error) {
	if want, got := binary.BigEndian.Uint32(b[12:]), crc32.ChecksumIEEE(b[16:]); want != got {
		return batch{}, fmt.Errorf("checksum %08x, its head says %08x", got, want)
	}
	out := batch{
		magic:      int8(b[16]),
		attributes: int16(b[17]),
		producer:   -1,
		count:      1,
		baseTime:   timeUnknown,
		body:       b,
	}
	if out.magic == 1 {
		if len(b) < prefix+legacyHeadV0+legacyTimeSize {
			return batch{}, errors.New("it is shorter than a message's head")
		}
		out.baseTime = int64(binary.BigEndian.Uint64(b[18:]))
	}
	out.maxTime = out.baseTime
	out.last = int64(binary.BigEndian.Uint64(b))
	out.first = out.last
	if out.attributes&codecMask == 0 {
		out.plain = true
		return out, nil
	}
	out.first = offsetUnknown
	return out, nil
}

// isControl reports whether the batch holds a marker in place of records.
func (b *batch) isControl() bool { return b.magic == 2 && b.attributes&control != 0 }

// isTransactional reports whether the batch belongs to a transaction.
func (b *batch) isTransactional() bool { return b.magic == 2 && b.attributes&transactional != 0 }

// inflate makes the body plain.
func (b *batch) inflate() (err error) {
	if b.plain {
		return nil
	}
	from := b.body
	if b.magic < 2 {
		r := answer{left: b.body[b.legacyHead():]}
		r.bytes() // a key
		from = r.bytes()
		if r.err != nil {
			return r.err
		}
	}
	plain, err := decompress(compress.Compression(b.attributes&codecMask), from)
	if err != nil {
		return fmt.Errorf("corrupt batch at offset %d: %w", b.last, err)
	}
	b.body, b.plain = plain, true
	return nil
}

// legacyHead is how many bytes stand before a message's key.
func (b *batch) legacyHead() int {
	if b.magic == 1 {
		return prefix + 6 + legacyTimeSize
	}
	return prefix + 6
}

// decompress is bounded, and doesn't panic whatever the bytes are.
func decompress(codec compress.Compression, b []byte) (plain []byte, err error) {
	c := codec.Codec()
	if c == nil {
		return nil, fmt.Errorf("compression %d is unknown", codec)
	}
	defer func() {
		if p := recover(); p != nil {
			plain, err = nil, fmt.Errorf("%s: %v", c.Name(), p)
		}
	}()
	if codec == compress.Snappy {
		if err := snappySizes(b); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	in := c.NewReader(bytes.NewReader(b))
	defer in.Close()
	out := bytes.NewBuffer(make([]byte, 0, min(max(4*len(b), 4<<10), 16<<20)))
	if _, err := out.ReadFrom(io.LimitReader(in, largestBatch+1)); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name(), err)
	}
	if out.Len() > largestBatch {
		return nil, fmt.Errorf("%s: more than %d MiB of records in one batch", c.Name(), largestBatch>>20)
	}
	return out.Bytes(), nil
}

// each gives the records of a batch that is inflated and no control batch, in
// order. The record is valid during the call; its bytes stay valid and are the
// batch's own.
func (b *batch) each(f func(r *Record) error) error {
	if b.magic < 2 {
		return b.eachLegacy(f)
	}
	in := cursor{b: b.body}
	var r Record
	byLog := b.attributes&logAppendTime != 0
	for range b.count {
		if err := in.record(&r); err != nil {
			return fmt.Errorf("corrupt batch at offset %d: %w", b.first, err)
		}
		r.Offset += b.first
		if r.Offset > b.last || r.Offset < b.first {
			return fmt.Errorf("corrupt batch at offset %d: it ends at %d and has a record %d", b.first, b.last, r.Offset)
		}
		r.Time += b.baseTime
		if r.ByLog = byLog; byLog {
			r.Time = b.maxTime
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	return nil
}

// eachLegacy is each for the formats 0 and 1.
func (b *batch) eachLegacy(f func(r *Record) error) error {
	byLog := b.magic == 1 && b.attributes&logAppendTime != 0
	if b.attributes&codecMask == 0 {
		r := Record{Offset: b.last, Time: b.baseTime, ByLog: byLog}
		if err := legacyRecord(b, &r); err != nil {
			return err
		}
		return f(&r)
	}
	var inner []batch
	for left := b.body; len(left) > 0; {
		m, rest, err := cutBatch(left)
		if err != nil {
			return err
		}
		if m.magic > 1 || !m.plain {
			return fmt.Errorf("corrupt batch at offset %d: a batch within", b.last)
		}
		inner, left = append(inner, m), rest
	}
	if len(inner) == 0 {
		return nil
	}
	// Format 1 counts offsets from the first message within, and only the last
	// one's is known; format 0 has them as they are.
	var base int64
	if b.magic == 1 {
		base = b.last - inner[len(inner)-1].last
	}
	for i := range inner {
		r := Record{Offset: base + inner[i].last, Time: inner[i].baseTime, ByLog: byLog}
		if byLog {
			r.Time = b.baseTime
		}
		if err := legacyRecord(&inner[i], &r); err != nil {
			return err
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	return nil
}

func legacyRecord(m *batch, r *Record) error {
	in := answer{left: m.body[m.legacyHead():]}
	r.Key, r.Value = in.bytes(), in.bytes()
	if in.err != nil {
		return fmt.Errorf("corrupt message at offset %d: %w", m.last, in.err)
	}
	return nil
}
