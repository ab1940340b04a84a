package raftmeta

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"trestle/raftmeta/catalog"
)

// A journal file is the magic and then frames. A frame is a header, and the
// payload: an encoded record, which carries its own checksum, or nothing. The
// header is little endian: length of the payload (4 bytes), flags (4), number
// of the batch (8), CRC-32C of these 16 (4).
const (
	magic       = "trestle journal1"
	headerBytes = 20
	flagLast    = 1 // of its batch
	sectorBytes = 512
	// maxPayload bounds what a header may ask for.
	maxPayload = 80 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A CorruptError is a place in a journal file that holds what was never
// written. The journal can't be used: restore it from a backup or, if the jobs
// in it can be given up, move its directory away.
type CorruptError struct {
	File   string
	Offset int64
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal file %s is corrupt at offset %d: %v", e.File, e.Offset, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

type header struct {
	length int
	last   bool
	batch  uint64
}

func appendFrame(buf []byte, batch uint64, last bool, payload []byte) []byte {
	start := len(buf)
	var flags uint32
	if last {
		flags = flagLast
	}
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	buf = binary.LittleEndian.AppendUint32(buf, flags)
	buf = binary.LittleEndian.AppendUint64(buf, batch)
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
	return append(buf, payload...)
}

// parseHeader reads a header; ok is false if these bytes are none.
func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < headerBytes || crc32.Checksum(b[:16], castagnoli) != binary.LittleEndian.Uint32(b[16:]) {
		return header{}, false
	}
	length, flags := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	h = header{length: int(length), last: flags&flagLast != 0, batch: binary.LittleEndian.Uint64(b[8:])}
	return h, length <= maxPayload && flags&^flagLast == 0 && h.batch > 0
}

// scan hands every record of whole batches to fold, and returns where the last
// whole batch ends and its number.
func scan(ctx context.Context, file *os.File, fold func(catalog.Record) error) (end int64, batch uint64, err error) {
	in := bufio.NewReaderSize(file, 1<<20)
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(in, start); err != nil || string(start) != magic {
		return 0, 0, &CorruptError{file.Name(), 0, errors.New("it doesn't begin as a journal of this version does")}
	}
	end = int64(len(magic))
	var records []catalog.Record // of the batch at hand
	for at := end; ; {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		h, r, err := readFrame(in)
		if err == io.EOF {
			return end, batch, nil // what there is of an unfinished batch is cut
		}
		if err == nil && h.batch != batch+1 {
			return end, batch, &CorruptError{file.Name(), at, fmt.Errorf("batch %d follows batch %d", h.batch, batch)}
		}
		if err != nil {
			return end, batch, judge(file, at, batch+1, err)
		}
		at += int64(headerBytes + h.length)
		if r != nil {
			records = append(records, r)
		}
		if !h.last {
			continue
		}
		for _, r := range records {
			if err := fold(r); err != nil {
				return 0, 0, fmt.Errorf("replay journal file %s: %w", file.Name(), err)
			}
		}
		end, batch, records = at, h.batch, records[:0]
	}
}

// errHeader is for bytes where a header should be that are none.
var errHeader = errors.New("the frame's header doesn't match its checksum")

// readFrame reads the next frame. io.EOF means that there is none.
func readFrame(in *bufio.Reader) (header, catalog.Record, error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return header{}, nil, err
	}
	h, ok := parseHeader(b[:])
	if !ok {
		return h, nil, errHeader
	}
	if h.length == 0 {
		return h, nil, nil
	}
	payload := make([]byte, h.length)
	if n, err := io.ReadFull(in, payload); err != nil {
		return h, nil, fmt.Errorf("only %d of %d bytes: %w", n, h.length, io.ErrUnexpectedEOF)
	}
	r, err := catalog.Decode(payload)
	return h, r, err
}

// judge tells a batch that a crash has torn, which is nil, from damage. Only
// the last batch can be torn: the next is written when it is safe. And what is
// torn lacks something: its end, or a sector that was never written. Whole but
// wrong bytes were changed after they were written.
func judge(file *os.File, at int64, batch uint64, cause error) error {
	torn := errors.Is(cause, io.ErrUnexpectedEOF)
	if !torn && !errors.Is(cause, errHeader) && !errors.Is(cause, catalog.ErrChecksum) {
		return fmt.Errorf("journal file %s at offset %d: %w", file.Name(), at, cause) // whole, but not to be understood
	}
	corrupt := &CorruptError{file.Name(), at, cause}
	stat, err := file.Stat()
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	tail := make([]byte, stat.Size()-at)
	if _, err := file.ReadAt(tail, at); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	for i := range tail {
		if h, ok := parseHeader(tail[i:]); ok && h.batch > batch {
			return corrupt
		}
	}
	if torn {
		return nil
	}
	for lo := int64(0); lo < int64(len(tail)); {
		hi := min((at+lo)/sectorBytes*sectorBytes+sectorBytes-at, int64(len(tail)))
		if allZero(tail[lo:hi]) {
			return nil
		}
		lo = hi
	}
	return corrupt
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func fileName(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.log", number))
}

// newest returns the number of the newest journal file, 0 if there is none,
// and removes what a crash has left of older and unfinished ones.
func newest(dir string) (uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var best uint64
	for _, e := range entries {
		if n, ok := fileNumber(e.Name(), ".log"); ok {
			best = max(best, n)
		}
	}
	for _, e := range entries {
		old, isLog := fileNumber(e.Name(), ".log")
		_, unfinished := fileNumber(e.Name(), ".log.new")
		if unfinished || isLog && old < best {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return 0, err
			}
		}
	}
	return best, nil
}

func fileNumber(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
