package task

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"trestle/coders"
	"trestle/element"
	"trestle/internal/membudget"
)

// A sortedSource gives each key's elements in the order of their time, for
// transforms that require it. It holds all elements of one key in memory.
type sortedSource struct {
	*groupSource
	w      *coders.Windowed
	budget *membudget.Budget

	key   []byte  // the elements of the key at hand
	order []dated // they, sorted
	at    int     // in order: the next one to give
	taken int64   // from the budget
}

// dated is an element and its time.
type dated struct {
	at   element.Timestamp
	elem []byte
}

const datedBytes = 32 // of memory for a dated

func (s *sortedSource) fill(_ context.Context, dst []byte, most int) ([]byte, int, error) {
	count := 0
	for len(dst) < chunkSize && count < most {
		if s.at == len(s.order) {
			err := s.nextKey()
			if errors.Is(err, io.EOF) && len(dst) > 0 {
				break // the next fill meets the end again
			}
			if err != nil {
				return dst, count, err
			}
		}
		dst = append(dst, s.order[s.at].elem...)
		s.at++
		count++
	}
	return dst, count, nil
}

// nextKey collects and sorts the elements of a key.
func (s *sortedSource) nextKey() error {
	s.key, s.order, s.at = s.key[:0], s.order[:0], 0
	for more := true; more; more = s.g.More() {
		var err error
		if s.key, _, err = s.g.Next(s.key); err != nil {
			return err
		}
	}
	var v coders.Value
	for rest := s.key; len(rest) > 0; {
		var err error
		if rest, err = s.w.Next(rest, &v); err != nil {
			return err
		}
		s.order = append(s.order, dated{v.Timestamp(), v.Raw})
	}
	slices.SortStableFunc(s.order, func(a, b dated) int { return cmp.Compare(a.at, b.at) })
	holds := int64(cap(s.key)) + datedBytes*int64(cap(s.order))
	s.budget.Take(holds - s.taken)
	s.taken = holds
	return nil
}

func (s *sortedSource) more() bool { return s.at < len(s.order) }

func (s *sortedSource) close() {
	s.budget.Give(s.taken)
	s.taken = 0
	s.groupSource.close()
}
