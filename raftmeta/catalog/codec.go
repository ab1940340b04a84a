package catalog

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// An encoded record is a version byte, a kind byte, a flags byte, the body and
// a CRC-32C of all before it (little endian). The body is the record as JSON,
// deflated when that makes a large one smaller. Fields may be added within a
// version as long as their absence means what it meant before.
const (
	version       = 1
	flagDeflated  = 1
	headerBytes   = 3
	checksumBytes = 4
	deflateAbove  = 4 << 10
	// maxBodyBytes bounds a body once it is inflated.
	maxBodyBytes = 64 << 20
)

// ErrChecksum is for bytes that are not those that were encoded.
var ErrChecksum = errors.New("the record doesn't match its checksum")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode gives the bytes that are stored for a record.
func Encode(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record %q: %w", r, err)
	}
	if len(body) > maxBodyBytes {
		return nil, fmt.Errorf("encode record %q: its %d bytes are more than a record may have", r, len(body))
	}
	var flags byte
	if len(body) > deflateAbove {
		if small := deflate(body); len(small) < len(body) {
			body, flags = small, flagDeflated
		}
	}
	out := make([]byte, 0, headerBytes+len(body)+checksumBytes)
	out = append(out, version, byte(r.kind()), flags)
	out = append(out, body...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli)), nil
}

// Decode reads what Encode wrote, in this version or an earlier one.
func Decode(data []byte) (Record, error) {
	if len(data) < headerBytes+checksumBytes {
		return nil, fmt.Errorf("record of %d bytes is too short: %w", len(data), ErrChecksum)
	}
	inside, sum := data[:len(data)-checksumBytes], binary.LittleEndian.Uint32(data[len(data)-checksumBytes:])
	if crc32.Checksum(inside, castagnoli) != sum {
		return nil, ErrChecksum
	}
	if v := data[0]; v != version {
		return nil, fmt.Errorf("record has format version %d; this program reads version %d: use a newer one", v, version)
	}
	r := newRecord(kind(data[1]))
	if r == nil {
		return nil, fmt.Errorf("record is of kind %d, which this program doesn't know: use a newer one", data[1])
	}
	body := inside[headerBytes:]
	switch flags := data[2]; flags {
	case 0:
	case flagDeflated:
		var err error
		if body, err = inflate(body); err != nil {
			return nil, fmt.Errorf("record of kind %d: %w", data[1], err)
		}
	default:
		return nil, fmt.Errorf("record has flags %#x, which this program doesn't know: use a newer one", flags)
	}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("record of kind %d: %w", data[1], err)
	}
	if j, ok := r.(*JobRestored); ok && j.State == nil {
		return nil, fmt.Errorf("record of kind %d: it has no job", data[1])
	}
	return r, nil
}

func deflate(body []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		return body // BestSpeed is a level; and not to deflate is always right
	}
	if _, err := w.Write(body); err != nil {
		return body
	}
	if err := w.Close(); err != nil {
		return body
	}
	return out.Bytes()
}

func inflate(data []byte) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(data)), maxBodyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBodyBytes {
		return nil, fmt.Errorf("it inflates to more than %d bytes", maxBodyBytes)
	}
	return body, nil
}
