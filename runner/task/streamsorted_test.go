package task

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/watermark"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// few are plans of bundles of so many elements.
type few int

func (few) Plan(context.Context, string, string) (*fusion.Plan, error) { return nil, nil }
func (n few) BundleElements(string) int                                { return int(n) }
func (few) BundleTime(string) time.Duration                            { return 0 }

// newSorter sorts for a stream of no inputs but what the test says.
func newSorter(latenessMillis int64, bundleElements int) *sorter {
	m := &TaskManager{cfg: Config{BundleBytes: 1 << 20, BundleElements: 1 << 20, Plans: few(bundleElements)}}
	s := &stream{r: &run{m: m, prog: &bundle.Program{Node: &jobgraph.Stage{}}}, marks: watermark.NewTracker(1)}
	return &sorter{s: s, latenessMillis: latenessMillis}
}

// gives is what a watermark lets go, in order.
func (q *sorter) gives(t *testing.T, at element.Timestamp) string {
	t.Helper()
	q.s.marks.Advance(0, watermark.Mark{Watermark: at})
	var all []string
	for {
		did, err := q.give(q.s.marks.Input())
		if err != nil {
			t.Fatal(err)
		}
		if !did {
			return strings.Join(all, " ")
		}
		all = append(all, string(q.s.batch.chunk))
		q.s.batch = batchOut{}
	}
}

func TestSorter(t *testing.T) {
	q := newSorter(5, 0)
	for i, at := range []element.Timestamp{30, 10, 20, 10, 12} {
		if !q.put(fmt.Appendf(nil, "%d@%d,", i, at), at) {
			t.Errorf("an element at %d is too late at the beginning", at)
		}
	}
	for _, c := range []struct {
		at         element.Timestamp
		want, hold string
	}{
		{10, "", "10"},
		{15, "", "10"}, // those at 10 may still be overtaken
		{16, "1@10,3@10,", "12"},
		{26, "4@12,2@20,", "26"}, // nothing is before the watermark
		{100, "0@30,", "100"},
	} {
		if got := q.gives(t, c.at); got != c.want {
			t.Errorf("at %d: %q, want %q", c.at, got, c.want)
		}
		m, _ := q.s.marks.Settle(q.s.marks.Input())
		if got := fmt.Sprint(int64(m.Watermark)); got != c.hold {
			t.Errorf("at %d the output watermark is %s, want %s", c.at, got, c.hold)
		}
	}
	if q.put([]byte("late"), 94) {
		t.Error("an element is taken that is later than the lateness allows")
	}
	if !q.put([]byte("last"), 95) || q.gives(t, element.MaxTimestamp) != "last" {
		t.Error("an element that is just not too late isn't given at the end")
	}
}

// However many are ripe, no more are given at once than a bundle may have.
func TestSorterBundles(t *testing.T) {
	q := newSorter(0, 3)
	for i := range 10 {
		q.put(fmt.Appendf(nil, "%d", i), element.Timestamp(10-i))
	}
	if got, want := q.gives(t, 100), "987 654 321 0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What an SDK answers is checked, and what it says of counts isn't believed.
func TestWalkIterable(t *testing.T) {
	letters := func(b []byte) (string, string, error) {
		var got []byte
		rest, err := walkIterable(b, func(b []byte) ([]byte, error) {
			got = append(got, b[0])
			return b[1:], nil
		})
		return string(got), string(rest), err
	}
	for _, c := range []struct{ in, want, rest string }{
		{"\x00\x00\x00\x00rest", "", "rest"},
		{"\x00\x00\x00\x02abrest", "ab", "rest"},
		{"\xff\xff\xff\xff\x02ab\x01c\x00rest", "abc", "rest"},
	} {
		if got, rest, err := letters([]byte(c.in)); got != c.want || rest != c.rest || err != nil {
			t.Errorf("%q: %q and %q (%v), want %q and %q", c.in, got, rest, err, c.want, c.rest)
		}
	}
	for _, bad := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x02a", "\x7f\xff\xff\xffa", "\xff\xff\xff\xff", "\xff\xff\xff\xff\x02ab", "\xff\xff\xff\xff\xff\xff\xff\xff\x0fa"} {
		if got, rest, err := letters([]byte(bad)); err == nil {
			t.Errorf("%q is taken as %q and %q", bad, got, rest)
		}
	}
}

func TestNonce(t *testing.T) {
	for i := range 300 {
		nonce := bundle.Nest(bytesCoder(t), nonceBytes(i))
		if got, err := nonceOf(nonce, 300); got != i || err != nil {
			t.Errorf("%x is %d (%v), want %d", nonce, got, err, i)
		}
	}
	for _, bad := range [][]byte{nil, {0}, {1}, {1, 5}, {2, 1}, {1, 0x80}, {9, 1, 1}} {
		if i, err := nonceOf(bad, 5); err == nil {
			t.Errorf("%x is taken as %d", bad, i)
		}
	}
}

func nonceBytes(i int) []byte {
	if i < 0x80 {
		return []byte{byte(i)}
	}
	return []byte{byte(i) | 0x80, byte(i >> 7)}
}

func bytesCoder(t *testing.T) *coders.Coder {
	t.Helper()
	protos := map[string]*pipepb.Coder{"c": {Spec: &pipepb.FunctionSpec{Urn: coders.URNBytes}}}
	c, err := coders.NewTable(protos).Coder("c")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDropCounters(t *testing.T) {
	info := counter("Group", droppedLate, 300)
	if got := info.GetLabels(); got["PTRANSFORM"] != "Group" || got["NAME"] != droppedLate || got["NAMESPACE"] != "trestle" {
		t.Errorf("labels %v", got)
	}
	if !slices.Equal(info.GetPayload(), []byte{0xac, 2}) {
		t.Errorf("payload %x", info.GetPayload())
	}
}
