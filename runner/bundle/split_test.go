package bundle

import (
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// answerOf is a worker's answer to a split: elements up to last stay whole, those
// from first on are given back, and the one in between is cut in two.
func answerOf(last, first int64, primary, residual string) *fnpb.ProcessBundleSplitResponse {
	r := &fnpb.ProcessBundleSplitResponse{
		ChannelSplits: []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{
			TransformId: sourceID, LastPrimaryElement: last, FirstResidualElement: first,
		}},
	}
	if primary != "" {
		r.PrimaryRoots = []*fnpb.BundleApplication{{Element: []byte(primary)}}
		r.ResidualRoots = []*fnpb.DelayedBundleApplication{{
			Application:        &fnpb.BundleApplication{Element: []byte(residual)},
			RequestedTimeDelay: durationpb.New(time.Second),
		}}
	}
	return r
}

// TestNarrow splits bundles in ways that SDKs do, and checks that what is kept
// and what is given back are together what there was, each part once.
func TestNarrow(t *testing.T) {
	tests := []struct {
		name   string
		items  string
		splits []*fnpb.ProcessBundleSplitResponse
		kept   string
		given  string
	}{
		{"no split keeps all", "a b c", nil, "a b c", ""},
		{"between elements", "a b c d", []*fnpb.ProcessBundleSplitResponse{answerOf(1, 2, "", "")}, "a b", "c d"},
		{"inside an element", "a b c d", []*fnpb.ProcessBundleSplitResponse{answerOf(0, 2, "b1", "b2")}, "a b1", "b2 c d"},
		{"the only element", "a", []*fnpb.ProcessBundleSplitResponse{answerOf(-1, 1, "a1", "a2")}, "a1", "a2"},
		{"the same element twice", "a b", []*fnpb.ProcessBundleSplitResponse{
			answerOf(-1, 1, "a12", "a3"), answerOf(-1, 1, "a1", "a2"),
		}, "a1", "a3 b a2"},
		{"a later split further in front", "a b c d", []*fnpb.ProcessBundleSplitResponse{
			answerOf(2, 3, "", ""), answerOf(0, 2, "b1", "b2"),
		}, "a b1", "d b2 c"},
		{"a later split that gives nothing more", "a b c", []*fnpb.ProcessBundleSplitResponse{
			answerOf(0, 2, "b1", "b2"), answerOf(1, 2, "", ""),
		}, "a b1", "b2 c"},
		{"what was given back is not split", "a b c", []*fnpb.ProcessBundleSplitResponse{
			answerOf(0, 1, "", ""), answerOf(0, 2, "b1", "b2"),
		}, "a", "b c"},
		{"indexes beyond the input are no split", "a b", []*fnpb.ProcessBundleSplitResponse{answerOf(5, 6, "", "")}, "a b", ""},
		{"indexes that overlap are no split", "a b", []*fnpb.ProcessBundleSplitResponse{answerOf(1, 1, "", "")}, "a b", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := &Input{}
			for _, s := range strings.Fields(tt.items) {
				in.Items = append(in.Items, []byte(s))
			}
			var given []string
			for _, s := range tt.splits {
				kept, gave, ok := in.narrow(s)
				if !ok {
					continue
				}
				in.pending = kept
				for _, g := range gave {
					given = append(given, string(g.Element))
				}
			}
			if got := join(in.Kept()); got != tt.kept {
				t.Errorf("kept %q, want %q", got, tt.kept)
			}
			if got := strings.Join(given, " "); got != tt.given {
				t.Errorf("gave back %q, want %q", got, tt.given)
			}
			in.settle()
			if got := join(in.Items); got != tt.kept {
				t.Errorf("a later try runs %q, want %q", got, tt.kept)
			}
		})
	}
}

func join(items [][]byte) string {
	var s []string
	for _, b := range items {
		s = append(s, string(b))
	}
	return strings.Join(s, " ")
}

// A worker that has done all that it kept splits behind it, which takes nothing
// back and gives nothing.
func TestSplitAtEnd(t *testing.T) {
	in := &Input{Items: [][]byte{[]byte("a"), []byte("b")}}
	for _, test := range []struct {
		answer *fnpb.ProcessBundleSplitResponse
		want   bool
	}{{answerOf(2, 3, "", ""), true}, {answerOf(1, 2, "", ""), false}, {answerOf(3, 4, "", ""), false}, {answerOf(1, 3, "c1", "c2"), false}} {
		if got := in.atEnd(test.answer); got != test.want {
			t.Errorf("%v: %v, want %v", test.answer, got, test.want)
		}
	}
	kept, _, ok := in.narrow(answerOf(-1, 1, "a1", "a2"))
	if in.pending = kept; !ok {
		t.Fatal("the split made no sense")
	}
	if !in.atEnd(answerOf(1, 2, "", "")) || in.atEnd(answerOf(2, 3, "", "")) {
		t.Error("after a split the end is where that was")
	}
	if got := join(in.Kept()); got != "a1" {
		t.Errorf("kept %q", got)
	}
}

// A worker that reads on where it was split is told from one that doesn't.
func TestReadOn(t *testing.T) {
	in := &Input{}
	for _, s := range strings.Fields("a b c d") {
		in.Items = append(in.Items, []byte(s))
	}
	if in.gaveBack(4) {
		t.Error("nothing was given back yet")
	}
	for _, split := range []struct {
		answer *fnpb.ProcessBundleSplitResponse
		most   int64 // that the worker may read
	}{{answerOf(1, 3, "c1", "c2"), 3}, {answerOf(0, 1, "", ""), 1}, {answerOf(-1, 1, "a1", "a2"), 1}} {
		kept, _, ok := in.narrow(split.answer)
		if in.pending = kept; !ok {
			t.Fatal("the split made no sense")
		}
		if in.gaveBack(split.most) || !in.gaveBack(split.most+1) {
			t.Errorf("after a split of which %d elements are left: %v, %v", split.most, in.gaveBack(split.most), in.gaveBack(split.most+1))
		}
	}
}

// Only a bundle that has run for a while, but not for long, is left alone for the
// whole grace.
func TestSplitWait(t *testing.T) {
	for ran, want := range map[time.Duration]time.Duration{
		0:                      splitLeast,
		50 * time.Millisecond:  50 * time.Millisecond,
		500 * time.Millisecond: splitGrace,
		3 * time.Second:        0,
	} {
		if got := splitWait(ran); got != want {
			t.Errorf("a bundle that has run for %v waits %v, want %v", ran, got, want)
		}
	}
}
