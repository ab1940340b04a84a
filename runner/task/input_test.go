package task

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"trestle/internal/membudget"
)

// ones is a source of elements of one byte each.
type ones struct{ left int }

func (s *ones) fill(_ context.Context, dst []byte, most int) ([]byte, int, error) {
	if s.left == 0 {
		return dst, 0, io.EOF
	}
	n := min(s.left, most, cap(dst)-len(dst))
	s.left -= n
	return append(dst, bytes.Repeat([]byte{1}, n)...), n, nil
}

func (*ones) more() bool       { return false }
func (*ones) mark() uint64     { return 0 }
func (*ones) free(_, _ uint64) {}
func (*ones) close()           {}

// No bundle has more elements or bytes than it may, and none is smaller than it
// need be.
func TestBatchLimits(t *testing.T) {
	for _, tt := range []struct {
		name     string
		elements int
		limit    limits
		want     []int
	}{
		{"one each", 3, limits{bytes: 1 << 20, count: 1}, []int{1, 1, 1}},
		{"by count", 25, limits{bytes: 1 << 20, count: 10}, []int{10, 10, 5}},
		{"by count, over several chunks", chunkSize * 3, limits{bytes: 1 << 30, count: chunkSize + 10}, []int{chunkSize + 10, chunkSize + 10, chunkSize - 20}},
		{"by bytes", chunkSize * 3, limits{bytes: 2 * chunkSize, count: 1 << 30}, []int{2 * chunkSize, chunkSize}},
		{"nothing", 0, limits{bytes: 1, count: 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			budget := membudget.New(1 << 20)
			b := newBatches(t.Context(), &ones{tt.elements}, budget, tt.limit)
			for _, want := range tt.want {
				in, err := b.next(t.Context())
				if err != nil || in.Elements != want || in.Bytes != int64(want) {
					t.Fatalf("bundle %+v, %v; want %d elements", in, err, want)
				}
				b.release()
			}
			if _, err := b.next(t.Context()); !errors.Is(err, io.EOF) {
				t.Errorf("after the last bundle: %v", err)
			}
			b.close()
			if budget.Used() != 0 {
				t.Errorf("%d bytes are not given back", budget.Used())
			}
		})
	}
}

// An impulse is one element behind its window's header, with its length.
func TestImpulse(t *testing.T) {
	for _, value := range []string{"", "where", strings.Repeat("x", 300)} {
		in, err := (&impulse{value: []byte(value)}).next(t.Context())
		if err != nil || in.Elements != 1 || len(in.Chunks) != 1 || in.Bytes != int64(len(in.Chunks[0])) {
			t.Fatalf("%+v, %v", in, err)
		}
		// 8 bytes of time, 4 of the number of windows (a global one has no
		// bytes), 1 of the pane.
		length, n := binary.Uvarint(in.Chunks[0][13:])
		if got := string(in.Chunks[0][13+n:]); got != value || int(length) != len(value) {
			t.Errorf("%q, want %q", got, value)
		}
	}
}
