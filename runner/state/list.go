package state

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"sort"
)

var errEntry = errors.New("an ordered list's entries must be a varint sort key and a length prefixed value each")

// A list is sorted by sort key; entries with equal keys keep their order of
// arrival.
type list []entry

type entry struct {
	sortKey int64
	enc     []byte // with the sort key
}

// with returns the list and the encoded entries of data, which it copies. It
// may change l in place.
func (l list) with(data []byte) (list, error) {
	data = slices.Clone(data)
	old := len(l)
	sorted := true
	for rest := data; len(rest) > 0; {
		sortKey, n := binary.Uvarint(rest)
		if n <= 0 {
			return nil, errEntry
		}
		size, m := binary.Uvarint(rest[n:])
		if m <= 0 || size > uint64(len(rest)-n-m) {
			return nil, errEntry
		}
		end := n + m + int(size)
		l = append(l, entry{sortKey: int64(sortKey), enc: rest[:end:end]})
		if i := len(l) - 1; i > 0 && l[i-1].sortKey > l[i].sortKey {
			sorted = false
		}
		rest = rest[end:]
	}
	if sorted {
		return l, nil
	}
	if len(l) == old+1 { // one entry, as Go workers send them
		e := l[old]
		i := sort.Search(old, func(i int) bool { return l[i].sortKey > e.sortKey })
		copy(l[i+1:], l[i:old])
		l[i] = e
		return l, nil
	}
	slices.SortStableFunc(l, func(x, y entry) int { return cmp.Compare(x.sortKey, y.sortKey) })
	return l, nil
}

// without returns the list without the sort keys in [lo, hi). It may change l
// in place.
func (l list) without(lo, hi int64) list {
	from, to := l.search(lo), l.search(hi)
	if from >= to {
		return l
	}
	return slices.Delete(l, from, to)
}

// search returns the index of the first entry that is not before sortKey.
func (l list) search(sortKey int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].sortKey >= sortKey })
}

func (l list) memory() int64 {
	var n int64
	for i := range l {
		n += cellBytes + int64(len(l[i].enc))
	}
	return n
}

// page returns the entries with sort keys in [lo, hi) that follow the token: a
// sort key, and how many entries with that key have been seen. So it names the
// same place even if entries before it come or go between two pages.
func (l list) page(lo, hi int64, token []byte, page int) (data, next []byte, err error) {
	from, to := l.search(lo), l.search(hi)
	if token != nil {
		key, n := binary.Uvarint(token)
		if n <= 0 {
			return nil, nil, errToken
		}
		seen, m := binary.Uvarint(token[n:])
		if m <= 0 || n+m != len(token) {
			return nil, nil, errToken
		}
		first := l.search(int64(key))
		from = max(from, first+int(min(seen, uint64(len(l)-first))))
	}
	for i := from; i < to; i++ {
		if len(data) > 0 && len(data)+len(l[i].enc) > page {
			seen := i - l.search(l[i].sortKey)
			next = binary.AppendUvarint(nil, uint64(l[i].sortKey))
			return data, binary.AppendUvarint(next, uint64(seen)), nil
		}
		data = append(data, l[i].enc...)
	}
	return data, nil, nil
}
