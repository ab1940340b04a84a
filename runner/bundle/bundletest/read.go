package bundletest

import (
	"errors"
	"io"
	"testing"

	"trestle/coders"
	"trestle/shuffle"
)

// ReadAll reads a partition to its end and gives its elements as text.
func ReadAll(t *testing.T, rd *shuffle.Reader, w *coders.Windowed) (all []string) {
	t.Helper()
	defer rd.Close()
	for {
		b, _, err := rd.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		var v coders.Value
		for len(b) > 0 {
			if b, err = w.Next(b, &v); err != nil {
				t.Fatal(err)
			}
			all = append(all, Text(&v))
		}
	}
}
