package group

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"trestle/coders"
	"trestle/internal/membudget"

	"golang.org/x/sys/unix"
)

// cpu is the processor time that the process has used: on a busy machine the
// sounder figure.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchInput is n records of 10-byte keys, of so many different ones, and
// 90-byte values that don't compress, in chunks.
func benchInput(n, keys int) [][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var chunks [][]byte
	chunk := make([]byte, 0, 132<<10)
	var value [90]byte
	for range n {
		for i := 0; i < len(value); i += 8 {
			var word [8]byte
			binary.LittleEndian.PutUint64(word[:], rng.Uint64())
			copy(value[i:], word[:])
		}
		key := fmt.Sprintf("%010d", rng.IntN(keys))
		chunk = encode(chunk, elem{key: key, value: string(value[:])})
		if len(chunk) > 128<<10 {
			chunks = append(chunks, chunk)
			chunk = make([]byte, 0, 132<<10)
		}
	}
	return append(chunks, chunk)
}

func BenchmarkGroup(b *testing.B) {
	const n = 1_000_000
	for _, keys := range []int{n, n / 10, 100} {
		chunks := benchInput(n, keys)
		for _, memory := range []int64{1 << 30, 32 << 20} {
			b.Run(fmt.Sprintf("keys=%d/memory=%dMiB", keys, memory>>20), func(b *testing.B) {
				dir := b.TempDir()
				input := cutter(b, coders.URNGlobalWindow)
				b.ReportAllocs()
				var add, next time.Duration
				out := make([]byte, 0, 1<<20)
				for b.Loop() {
					g := New(Config{Input: input, Budget: membudget.New(2 << 30), Memory: memory, StateBacked: true, Dir: dir})
					begin := cpu()
					for _, c := range chunks {
						if err := g.Add(c); err != nil {
							b.Fatal(err)
						}
					}
					if err := g.Finish(context.Background()); err != nil {
						b.Fatal(err)
					}
					added := cpu()
					add += added - begin
					for {
						var err error
						out, _, err = g.Next(out)
						if errors.Is(err, io.EOF) {
							break
						}
						if err != nil {
							b.Fatal(err)
						}
						if len(out) > 256<<10 {
							out = out[:0]
						}
					}
					next += cpu() - added
					g.Close()
					g.Large().Close()
				}
				b.ReportMetric(float64(add.Nanoseconds())/float64(b.N)/n, "add-cpu-ns/elem")
				b.ReportMetric(float64(next.Nanoseconds())/float64(b.N)/n, "next-cpu-ns/elem")
			})
		}
	}
}
