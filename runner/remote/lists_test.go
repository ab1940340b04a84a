package remote

import (
	"encoding/json"
	"fmt"
	"testing"

	"trestle/runner/jobgraph"
	"trestle/runner/task"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// pair is both ends of shared lists, joined by JSON.
type pair struct {
	l     *lender
	b     *borrower
	bytes int
	err   error
}

func newPair(limit int) *pair {
	p := &pair{b: newBorrower()}
	p.l = newLender(limit, func(c command) {
		raw, err := json.Marshal(c)
		if err != nil {
			p.err = err
		}
		p.bytes += len(raw)
		var got command
		if err := json.Unmarshal(raw, &got); err != nil {
			p.err = err
		}
		if got.Piece != nil {
			if err := p.b.take(got.Piece); err != nil {
				p.err = err
			}
		}
		p.b.drop(got.Drop)
	})
	return p
}

// send passes a column through.
func (p *pair) send(column []task.Spec) ([]task.Spec, error) {
	p.l.begin()
	var encoded []spec
	for _, s := range column {
		encoded = append(encoded, encodeSpec(p.l, s))
	}
	raw, err := json.Marshal(encoded)
	if err != nil {
		return nil, err
	}
	p.bytes += len(raw)
	var decoded []spec
	if err := json.Unmarshal(raw, &decoded); err != nil {
		return nil, err
	}
	var out []task.Spec
	for _, d := range decoded {
		s, err := decodeSpec(p.b, d)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, p.err
}

// Whatever lists tasks share, and however few both ends may remember, tasks
// get theirs.
func TestSharedLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 500).Draw(t, "limit")
		var lists [][]task.Partition
		var places [][]string
		for range rapid.IntRange(1, 6).Draw(t, "lists") {
			n := rapid.IntRange(0, 200).Draw(t, "length")
			ps, at := make([]task.Partition, n), make([]string, n)
			for i := range ps {
				ps[i] = task.Partition{Index: rapid.IntRange(0, 1<<31-1).Draw(t, "index"), Attempt: rapid.Uint32().Draw(t, "attempt")}
				at[i] = fmt.Sprint("tm", rapid.IntRange(0, 3).Draw(t, "at"))
			}
			lists, places = append(lists, ps), append(places, at)
		}
		p := newPair(limit)
		most := limit
		for range rapid.IntRange(1, 30).Draw(t, "columns") {
			var column []task.Spec
			need := 0
			for range rapid.IntRange(1, 3).Draw(t, "tasks") {
				which := rapid.IntRange(0, len(lists)-1).Draw(t, "list")
				lo := rapid.IntRange(0, len(lists[which])).Draw(t, "lo")
				hi := rapid.IntRange(lo, len(lists[which])).Draw(t, "hi")
				in := task.Input{Dataset: "d", Partitions: lists[which][lo:hi:hi]}
				if rapid.Bool().Draw(t, "places") {
					in.At = places[which][lo:hi:hi]
				}
				need += 2 * len(lists[which])
				column = append(column, task.Spec{ID: id(1), Inputs: []task.Input{in}})
			}
			got, err := p.send(column)
			if err != nil || !cmp.Equal(got, column) {
				t.Fatal(err, cmp.Diff(column, got))
			}
			if p.l.total != p.b.total || len(p.l.places) != len(p.b.partitions)+len(p.b.names) || p.l.ages.Len() != len(p.l.places) {
				t.Fatalf("one end remembers %d entries of %d lists, the other %d", p.l.total, len(p.l.places), p.b.total)
			}
			if most = max(most, limit+need); p.l.total > most {
				t.Fatalf("%d entries are remembered, at most %d should", p.l.total, most)
			}
		}
	})
}

// 10,000 tasks that read 10,000 partitions each cost what one list costs, and
// a little for each task.
func TestAllToAllIsLinear(t *testing.T) {
	const n = 10_000
	parts, at := make([]task.Partition, n), make([]string, n)
	for i := range parts {
		parts[i], at[i] = task.Partition{Index: i, Attempt: 1}, fmt.Sprint("tm", i%4)
	}
	p := newPair(0)
	for i := range n {
		column := []task.Spec{{ID: id(i), Inputs: []task.Input{{Dataset: "d", Partitions: parts, At: at, Lo: i, Hi: i + 1}}}}
		got, err := p.send(column)
		if err != nil || len(got[0].Inputs[0].Partitions) != n || len(got[0].Inputs[0].At) != n {
			t.Fatal(err)
		}
	}
	if most := 600 * n; p.bytes > most {
		t.Errorf("%d bytes, at most %d", p.bytes, most)
	}
	t.Logf("%d bytes a task", p.bytes/n)
}

// Bytes from outside are an error at worst.
func FuzzLists(f *testing.F) {
	f.Add([]byte{1, 0, 1, 'x'}, encodePartitions([]jobgraph.Partition{{Index: 5, Attempt: 3}}))
	f.Add(encodeNames([]string{"a", "a", "b", "a"}), []byte{255})
	f.Fuzz(func(t *testing.T, names, partitions []byte) {
		if got, err := appendNames(nil, names); err == nil && len(got) > 0 {
			again, err := appendNames(nil, encodeNames(got))
			if err != nil || !cmp.Equal(got, again) {
				t.Error(err, got, again)
			}
		}
		if got, err := appendPartitions(nil, partitions); err == nil && len(got) > 0 {
			again, err := appendPartitions(nil, encodePartitions(got))
			if err != nil || !cmp.Equal(got, again) {
				t.Error(err, got, again)
			}
		}
	})
}
