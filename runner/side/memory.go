package side

import (
	"io"
	"slices"
	"sort"
)

// memory is a store of sorted recs; positions are indices of recs.
type memory struct {
	chunks  [][]byte
	recs    []rec
	segment int // bytes of one, unless one value is longer
}

func (m *memory) seek(_ *cursor, window uint32, hash uint64) (int64, error) {
	i := sort.Search(len(m.recs), func(i int) bool {
		r := &m.recs[i]
		return r.window > window || r.window == window && r.hash >= hash
	})
	return int64(i), nil
}

func (m *memory) head(_ *cursor, pos int64) (segment, error) {
	if pos >= int64(len(m.recs)) {
		return segment{}, io.EOF
	}
	r := &m.recs[pos]
	s := segment{window: r.window, hash: r.hash, key: keyOf(m.chunks, r), pos: pos}
	for i := pos; ; i++ {
		if i == int64(len(m.recs)) || i > pos && m.recs[i].first {
			s.last = true
			break
		}
		value := int(m.recs[i].len - m.recs[i].keyLen)
		if i > pos && s.size+value > m.segment {
			break
		}
		s.size += value
		s.count++
	}
	s.next = pos + int64(s.count)
	return s, nil
}

func (m *memory) values(dst []byte, s *segment) ([]byte, error) {
	dst = slices.Grow(dst, s.size)
	for i := s.pos; i < s.next; i++ {
		dst = append(dst, valueOf(m.chunks, &m.recs[i])...)
	}
	return dst, nil
}

func (m *memory) close() {}
