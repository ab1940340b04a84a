package coders_test

import (
	"bytes"
	"testing"

	"trestle/coders"
	"trestle/element"
)

// BenchmarkNext cuts what a group by key sees most: 100-byte kv<bytes,bytes>.
func BenchmarkNext(b *testing.B) {
	for _, bench := range []struct{ name, window string }{
		{"global", coders.URNGlobalWindow},
		{"interval", coders.URNIntervalWindow},
	} {
		b.Run(bench.name, func(b *testing.B) {
			w := coders.NewWindowed(mustParse(b, "kv(bytes, bytes)"), mustParse(b, short(bench.window)))
			var win []byte
			if bench.window == coders.URNIntervalWindow {
				win = coders.AppendInterval(nil, element.Interval{Start: 60_000, End: 120_000})
			}
			one := coders.AppendHeader(nil, 77_000, 1, win, coders.NoFiring)
			one = append(one, 10)
			one = append(one, bytes.Repeat([]byte{'k'}, 10)...)
			one = append(one, 88)
			one = append(one, bytes.Repeat([]byte{'v'}, 88)...)
			const n = 1000
			chunk := bytes.Repeat(one, n)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N / n {
				var v coders.Value
				var err error
				for rest := chunk; len(rest) > 0; {
					if rest, err = w.Next(rest, &v); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
