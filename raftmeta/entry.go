package raftmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"trestle/raftmeta/catalog"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A batch is what one Append adds: each record encoded, with its length before
// it (4 bytes). It travels in one entry of Raft's log or, if it is large, in
// several that follow each other. An entry is, little endian: version (1 byte),
// flags (1), number of the part (2), term of the leader that wrote it (8), the
// part's bytes, CRC-32C of all before it (4).
const (
	entryVersion = 1
	entryHeader  = 12
	entryFirst   = 1 // flags
	entryLast    = 2

	// maxEntryBytes bounds an entry: larger ones hold up heartbeats and elections.
	maxEntryBytes = 512<<10 - 1<<10
	// maxBatchBytes bounds what one Append may add.
	maxBatchBytes = 128 << 20
)

var errEntryChecksum = errors.New("it doesn't match its checksum")

// An entry is one decoded entry of the log.
type entry struct {
	first, last bool
	part        uint16
	term        uint64
	payload     []byte
}

// encodeBatch cuts the records of one Append, made by the leader of that term,
// into entries.
func encodeBatch(term uint64, records []catalog.Record) ([][]byte, error) {
	var payload []byte
	for _, r := range records {
		b, err := catalog.Encode(r)
		if err != nil {
			return nil, err
		}
		payload = binary.LittleEndian.AppendUint32(payload, uint32(len(b)))
		payload = append(payload, b...)
	}
	if len(payload) > maxBatchBytes {
		return nil, fmt.Errorf("append %d records: their %d bytes are more than one batch may have", len(records), len(payload))
	}
	var entries [][]byte
	for part := uint16(0); ; part++ {
		e := entry{first: part == 0, part: part, term: term}
		n := min(len(payload), maxEntryBytes-entryHeader-4)
		e.payload, payload = payload[:n], payload[n:]
		e.last = len(payload) == 0
		entries = append(entries, e.encode())
		if e.last {
			return entries, nil
		}
	}
}

func (e *entry) encode() []byte {
	var flags byte
	if e.first {
		flags |= entryFirst
	}
	if e.last {
		flags |= entryLast
	}
	out := make([]byte, 0, entryHeader+len(e.payload)+4)
	out = append(out, entryVersion, flags)
	out = binary.LittleEndian.AppendUint16(out, e.part)
	out = binary.LittleEndian.AppendUint64(out, e.term)
	out = append(out, e.payload...)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

func decodeEntry(data []byte) (entry, error) {
	if len(data) < entryHeader+4 {
		return entry{}, errEntryChecksum
	}
	inside, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(inside, castagnoli) != sum {
		return entry{}, errEntryChecksum
	}
	if data[0] != entryVersion || data[1]&^(entryFirst|entryLast) != 0 {
		return entry{}, fmt.Errorf("it has format version %d and flags %#x, which this program doesn't know: use a newer one", data[0], data[1])
	}
	return entry{
		first:   data[1]&entryFirst != 0,
		last:    data[1]&entryLast != 0,
		part:    binary.LittleEndian.Uint16(data[2:]),
		term:    binary.LittleEndian.Uint64(data[4:]),
		payload: inside[entryHeader:],
	}, nil
}

// decodeBatch reads the records of a whole batch.
func decodeBatch(payload []byte) ([]catalog.Record, error) {
	var records []catalog.Record
	for len(payload) > 0 {
		if len(payload) < 4 || uint64(len(payload)-4) < uint64(binary.LittleEndian.Uint32(payload)) {
			return nil, errors.New("a record of it is cut off")
		}
		n := binary.LittleEndian.Uint32(payload)
		r, err := catalog.Decode(payload[4 : 4+n])
		if err != nil {
			return nil, fmt.Errorf("record %d of it: %w", len(records), err)
		}
		records, payload = append(records, r), payload[4+n:]
	}
	return records, nil
}
