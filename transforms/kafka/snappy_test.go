package kafka

import (
	"bytes"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/compress/snappy"
)

// A few bytes don't get gigabytes of memory by saying that they hold as much.
func TestSnappyLies(t *testing.T) {
	head := append(bytes.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	for name, lie := range map[string][]byte{
		"frame":           append(bytes.Clone(head), 0x7f, 0xff, 0xff, 0xff, 1, 2, 3),
		"block in frame":  append(bytes.Clone(head), 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1, 2),
		"block":           {0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1, 2},
		"endless number":  bytes.Repeat([]byte{0xff}, 20),
		"frame's end":     append(bytes.Clone(head), 0, 0),
		"half of a frame": head[:12],
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		plain, err := decompress(compress.Snappy, lie)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 1<<20 {
			t.Errorf("%s: %d bytes allocated for %d, result %d bytes, %v", name, got, len(lie), len(plain), err)
		}
	}
}

// What compresses as well as anything can, and what doesn't at all, is read, in
// frames and without.
func TestSnappyExtremes(t *testing.T) {
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, want := range [][]byte{nil, {7}, make([]byte, 4<<20), noise} {
		for _, framing := range []snappy.Framing{snappy.Framed, snappy.Unframed} {
			var b bytes.Buffer
			w := (&snappy.Codec{Framing: framing, Compression: snappy.BestCompression}).NewWriter(&b)
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if got, err := decompress(compress.Snappy, b.Bytes()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes as %d, framing %d: %d bytes, %v", len(want), b.Len(), framing, len(got), err)
			}
		}
	}
}
