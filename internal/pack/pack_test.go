package pack

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	var p Packer
	for _, src := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("word "), 5000), noise(70_000)} {
		dst := make([]byte, 3, 3+MaxLen(len(src)))
		out, packed := p.Append(dst, src)
		got := out[3:]
		if packed {
			got = make([]byte, len(src))
			if err := Unpack(got, out[3:]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, src) {
			t.Errorf("%d bytes came back as %d others", len(src), len(got))
		}
	}
}

// What doesn't shrink is tried less and less often; what shrinks is tried
// always once that was seen.
func TestTriesFollowTheData(t *testing.T) {
	var p Packer
	src, word := noise(1000), bytes.Repeat([]byte("word "), 200)
	dst := make([]byte, 0, MaxLen(1000))
	for range 100 {
		if _, packed := p.Append(dst, src); packed {
			t.Fatal("noise can't be packed")
		}
	}
	first := -1
	for i := range 100 {
		_, packed := p.Append(dst, word)
		if packed && first < 0 {
			first = i
		}
		if first >= 0 && !packed {
			t.Fatalf("block %d after the first that was packed", i-first)
		}
	}
	if first < 0 || first > mostUntried {
		t.Fatalf("%d blocks went by untried", first)
	}
}

func FuzzUnpack(f *testing.F) {
	var p Packer
	good, _ := p.Append(make([]byte, 0, MaxLen(500)), bytes.Repeat([]byte("word "), 100))
	f.Add(good, 500)
	f.Fuzz(func(t *testing.T, block []byte, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		_ = Unpack(make([]byte, n), block) // must not panic
	})
}
