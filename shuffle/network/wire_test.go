package network

import (
	"bytes"
	"errors"
	"testing"

	"trestle/internal/cluster"
	"trestle/shuffle/driver"

	"github.com/google/go-cmp/cmp"
)

func frameOfBytes(b []byte) *cluster.Frame {
	f := cluster.NewFrame(len(b))
	copy(f.Bytes(), b)
	return f
}

// Partitions of several datasets come as they went, and what a frame says is
// what was put into it.
func TestMessages(t *testing.T) {
	var ids []driver.PartitionID
	for _, dataset := range []string{"d1", "d2", "d1"} {
		for i := range 3 {
			ids = append(ids, driver.PartitionID{Job: "j", Dataset: dataset, Index: i, Attempt: uint32(i * i)})
		}
	}
	f, err := message(kindRequest, request{Exchange: "e", Parts: runs(ids), Hi: 3, progress: progress{Blocks: 1, Bytes: 2, Consumed: 3}})
	if err != nil {
		t.Fatal(err)
	}
	var q request
	if err := body(f, &q); err != nil {
		t.Fatal(err)
	}
	got, err := q.ids()
	if diff := cmp.Diff(ids, got); diff != "" || err != nil || q.progress != (progress{1, 2, 3}) {
		t.Errorf("%s, %v, %+v", diff, err, q.progress)
	}

	h := header{seq: 7, Stored: driver.Stored{Part: 3, Count: 5, Raw: 100, Size: 60, Packed: true, Place: 1 << 40, Sum: 9}}
	b := make([]byte, headerSize)
	h.put(b, 77)
	seed := func(part int) (uint64, bool) { return 77, part == 3 }
	if got, err := getHeader(b, seed); err != nil || got != h {
		t.Errorf("%+v became %+v, %v", h, got, err)
	}
	for i := range 8 * headerSize {
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		if i/8 == 0 {
			continue // the kind, which is told before
		}
		if _, err := getHeader(flipped, seed); !errors.Is(err, errGarbled) {
			t.Errorf("bit %d flipped: %v", i, err)
		}
	}
}

// Whatever comes, nothing ends the process.
func FuzzFrames(f *testing.F) {
	h := header{Stored: driver.Stored{Count: 1, Raw: 4, Size: 4}}
	b := make([]byte, headerSize+4)
	h.put(b, 1)
	f.Add(b)
	f.Add([]byte(`x{"exchange":"e","parts":[{"job":"j","index":[1],"attempt":[1]}]}`))
	f.Add(bytes.Repeat([]byte{kindCredit}, numbersSize))
	f.Fuzz(func(_ *testing.T, b []byte) {
		fr := frameOfBytes(b)
		_, _ = getHeader(b, func(int) (uint64, bool) { return 1, true })
		_, _ = getNumbers(fr)
		var q request
		if kindOf(fr) != 0 && body(fr, &q) == nil {
			_, _ = q.ids()
		}
	})
}
