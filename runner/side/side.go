// Package side keeps side inputs ready to be read by window and key.
//
// A side input is a collection that is complete before its readers start, and
// that each of them may read any number of times, a whole window or the values
// of one key at a time. Build reads the collection once and makes a View of
// it; a Cache shares a View between the tasks of a process.
//
// A View lies in memory while the budget lasts, else in one temporary file
// sorted by window and key, with an index in memory of less than a thousandth
// of its size. Pages end where elements end (Python and Java decode each page
// by itself), thus a page is longer than asked for only if one element is.
//
// The windows themselves are all in memory: a side input of millions of
// windows with one element each costs more than its bytes.
package side

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"trestle/internal/membudget"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// An Access says how a side input is read.
type Access string

// Beam's two access patterns.
const (
	Iterable Access = "beam:side_input:iterable:v1"
	Multimap Access = "beam:side_input:multimap:v1"
)

// A Source gives the collection's blocks: whole windowed values one after the
// other, until io.EOF. The bytes need be valid until the next call only.
type Source interface {
	Next(ctx context.Context) (elems []byte, count int, err error)
}

// Options say where a View may lie.
type Options struct {
	Budget    *membudget.Budget // required
	Dir       string            // for temporary files; the system's if empty
	PageBytes int               // of a page to the worker; 2 MiB if zero

	// For tests.
	hash     func(key []byte) uint64
	leastRun int64
}

const (
	defaultPageBytes = 2 << 20
	// maxEntryBytes bounds one key with all its values in KeysValues. Beam lets
	// the runner refuse what is longer; SDKs then ask key by key.
	maxEntryBytes = 32 << 20
)

// A segment is some values of one group, in order. A group is a window's
// elements (iterable) or a window's values of one key (multimap).
type segment struct {
	window    uint32
	hash      uint64 // of the key; zero if iterable
	key       []byte
	count     int
	size      int   // of the values' encodings together
	last      bool  // of its group
	pos, next int64 // where it and its successor begin
}

// A store holds segments in the order of window, hash, key. Segments of a
// group are neighbours. It is safe for concurrent use, each goroutine with a
// cursor of its own.
type store interface {
	// seek returns the position of the first group that is not before window
	// and hash.
	seek(c *cursor, window uint32, hash uint64) (pos int64, err error)
	// head describes the segment at pos; io.EOF if there is none. The key is
	// valid until the next call with c.
	head(c *cursor, pos int64) (segment, error)
	// values appends the segment's values.
	values(dst []byte, s *segment) ([]byte, error)
	close()
}

// A View is a side input that is ready. It is safe for concurrent use.
type View struct {
	access  Access
	page    int
	hash    func(key []byte) uint64
	windows map[string]uint32 // encoded window to its number
	store   store
	bytes   int64 // in memory
	free    func()
}

// Bytes is the number of bytes of memory that the view holds.
func (v *View) Bytes() int64 { return v.bytes }

// Close gives the view's memory and disk back. No call may be under way.
func (v *View) Close() {
	v.store.close()
	v.free()
}

// Read answers a worker's state request for one page: encoded elements, and
// the token by which to ask for the next page, nil if there is none. The four
// kinds of keys for side inputs are known. Bytes of the answer are the
// caller's.
func (v *View) Read(key *fnpb.StateKey, token []byte) (data, next []byte, err error) {
	switch k := key.GetType().(type) {
	case *fnpb.StateKey_IterableSideInput_:
		if v.access == Iterable {
			return v.Values(k.IterableSideInput.GetWindow(), nil, token)
		}
	case *fnpb.StateKey_MultimapSideInput_:
		if v.access == Multimap {
			return v.Values(k.MultimapSideInput.GetWindow(), k.MultimapSideInput.GetKey(), token)
		}
	case *fnpb.StateKey_MultimapKeysSideInput_:
		if v.access == Multimap {
			return v.Keys(k.MultimapKeysSideInput.GetWindow(), token)
		}
	case *fnpb.StateKey_MultimapKeysValuesSideInput_:
		if v.access == Multimap {
			return v.KeysValues(k.MultimapKeysValuesSideInput.GetWindow(), token)
		}
	}
	return nil, nil, fmt.Errorf("side input: a %s side input can't be read by %T", v.access, key.GetType())
}

// Values returns a page of the window's elements (iterable; the key is of no
// account) or of the values of a key in the window (multimap).
func (v *View) Values(window, key, token []byte) (data, next []byte, err error) {
	if v.access == Iterable {
		key = nil
	}
	win, ok := v.windows[string(window)]
	if !ok {
		return nil, nil, checkNoToken(token)
	}
	c := newCursor()
	defer c.free()
	s, found, err := v.group(c, win, key, token)
	if err != nil || !found {
		return nil, nil, err
	}
	for {
		if data, err = v.store.values(data, &s); err != nil {
			return nil, nil, err
		}
		if s.last {
			return data, nil, nil
		}
		following := s.next
		if s, err = v.store.head(c, following); err != nil {
			return nil, nil, unexpected(err)
		}
		if len(data)+s.size > v.page {
			return data, encodeToken(following), nil
		}
	}
}

// group finds the first segment of a group, or the one that token names.
func (v *View) group(c *cursor, window uint32, key, token []byte) (s segment, found bool, err error) {
	var hash uint64
	if v.access == Multimap {
		hash = v.hash(key)
	}
	if token != nil {
		pos, err := decodeToken(token)
		if err != nil {
			return s, false, err
		}
		s, err = v.store.head(c, pos)
		if err != nil || s.window != window || s.hash != hash || !bytes.Equal(s.key, key) {
			return s, false, errToken
		}
		return s, true, nil
	}
	pos, err := v.store.seek(c, window, hash)
	if err != nil {
		return s, false, err
	}
	for {
		s, err = v.store.head(c, pos)
		if err == io.EOF {
			return s, false, nil
		}
		if err != nil || s.window != window || s.hash != hash {
			return s, false, err
		}
		if bytes.Equal(s.key, key) {
			return s, true, nil
		}
		pos = s.next // another key with the same hash
	}
}

// Keys returns a page of the distinct keys of a window.
func (v *View) Keys(window, token []byte) (data, next []byte, err error) {
	return v.scan(window, token, func(c *cursor, dst []byte, s *segment) ([]byte, error) {
		dst = append(dst, s.key...)
		return dst, v.skipGroup(c, s)
	})
}

// KeysValues returns a page of keys, each followed by its values as an encoded
// iterable. It fails if one key's values are too long for that.
func (v *View) KeysValues(window, token []byte) (data, next []byte, err error) {
	return v.scan(window, token, func(c *cursor, dst []byte, s *segment) ([]byte, error) {
		start := len(dst)
		dst = append(dst, s.key...)
		if s.last {
			dst = binary.BigEndian.AppendUint32(dst, uint32(s.count))
			return v.store.values(dst, s)
		}
		// How many there are in all shows only at the end: write chunks.
		dst = append(dst, 0xff, 0xff, 0xff, 0xff)
		for {
			var err error
			dst = binary.AppendUvarint(dst, uint64(s.count))
			if dst, err = v.store.values(dst, s); err != nil || s.last {
				return append(dst, 0), err
			}
			if len(dst)-start > maxEntryBytes {
				return nil, fmt.Errorf("side input: a key has more than %d bytes of values; ask for it alone", maxEntryBytes)
			}
			if *s, err = v.store.head(c, s.next); err != nil {
				return nil, unexpected(err)
			}
		}
	})
}

// scan calls entry for the first segment of each group of a window until the
// page is full. entry moves s to the last segment of the group.
func (v *View) scan(window, token []byte, entry func(c *cursor, dst []byte, s *segment) ([]byte, error)) (data, next []byte, err error) {
	win, ok := v.windows[string(window)]
	if !ok {
		return nil, nil, checkNoToken(token)
	}
	c := newCursor()
	defer c.free()
	var pos int64
	if token != nil {
		pos, err = decodeToken(token)
	} else {
		pos, err = v.store.seek(c, win, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	for first := true; ; first = false {
		s, err := v.store.head(c, pos)
		if err == io.EOF || err == nil && s.window != win {
			return data, nil, nil
		}
		if err != nil && first && token != nil {
			return nil, nil, errToken
		}
		if err != nil {
			return nil, nil, err
		}
		if len(data) >= v.page {
			return data, encodeToken(pos), nil
		}
		if data, err = entry(c, data, &s); err != nil {
			return nil, nil, err
		}
		pos = s.next
	}
}

func (v *View) skipGroup(c *cursor, s *segment) (err error) {
	for !s.last {
		if *s, err = v.store.head(c, s.next); err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// unexpected is what it means that a segment's successor can't be read.
func unexpected(err error) error {
	if err == io.EOF {
		return errCorrupt
	}
	return err
}

var errToken = errors.New("side input: not a continuation token of this side input")

func encodeToken(pos int64) []byte { return binary.AppendUvarint(nil, uint64(pos)) }

func decodeToken(token []byte) (int64, error) {
	pos, n := binary.Uvarint(token)
	if n != len(token) || n == 0 || pos > 1<<62 {
		return 0, errToken
	}
	return int64(pos), nil
}

func checkNoToken(token []byte) error {
	if token != nil {
		return errToken
	}
	return nil
}
