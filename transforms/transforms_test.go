package transforms_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"trestle/coders"
	"trestle/runner/graph"
	"trestle/runner/graph/graphtest"
	"trestle/transforms"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
)

// TestApply reads graphs and prints what is made of them. After an intended
// change run go test ./transforms -rewrite, then read the diff as you would
// read code.
func TestApply(t *testing.T) {
	datadriven.Walk(t, "testdata/cases", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			g, err := graphtest.Parse(d.Input)
			if err != nil {
				return "not a graph: " + err.Error()
			}
			before := g.String()
			out, err := transforms.Apply(g, transforms.Options{NoLifting: d.HasArg("no-lifting")})
			if after := g.String(); after != before {
				t.Errorf("Apply changed its input to\n%s", after)
			}
			if err != nil {
				return err.Error()
			}
			check(t, out)
			return out.String()
		})
	})
}

// check tells what Apply's promises g breaks.
func check(t *testing.T, g *graph.Graph) {
	t.Helper()
	made := map[graph.CollectionID]bool{}
	for _, tr := range g.Transforms {
		if tr.Kind == graph.CombinePerKey || tr.Kind == graph.Splittable || tr.Parts != nil {
			t.Errorf("%s is still whole", tr)
		}
		for _, in := range tr.Reads() {
			if !made[in] {
				t.Errorf("%s reads %s, which nothing made before", tr, in)
			}
		}
		for _, out := range tr.Outputs {
			made[out] = true
			if c := g.Collections[out]; c == nil || c.Producer != tr.ID {
				t.Errorf("%s is not known to make %s", tr, out)
			}
		}
	}
	for id, c := range g.Collections {
		if !made[id] {
			t.Errorf("nothing makes %s", id)
		}
		if !coders.Cuttable(g.Coders, c.Coder) || !coders.Cuttable(g.Coders, g.Windowings[c.Windowing].GetWindowCoderId()) {
			t.Errorf("%s has a coder that the runner can't cut", id)
		}
	}
	for id, p := range g.Components().Transforms {
		for _, m := range []map[string]string{p.Inputs, p.Outputs} {
			for _, c := range m {
				if g.Collections[graph.CollectionID(c)] == nil {
					t.Errorf("proto of %s names %s, which the graph doesn't have", id, c)
				}
			}
		}
	}
}

// TestTimers: timers and ordered lists must be cut by the runner, so their
// coders in the payload are wire coders, with the key as the input has it.
func TestTimers(t *testing.T) {
	g, err := graphtest.Parse(`
		impulse Start out=a
		pardo   Split in=a out=b
		collection b coder=kv<money,bytes>
		pardo   Keep in=b out=c timer=money list=money
	`)
	if err != nil {
		t.Fatal(err)
	}
	if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
		t.Fatal(err)
	}
	keep := g.Transform("Keep")
	var pay pipepb.ParDoPayload
	if err := proto.Unmarshal(keep.Proto.GetSpec().GetPayload(), &pay); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&pay, keep.ParDo) {
		t.Errorf("payload %v differs from what the graph says: %v", &pay, keep.ParDo)
	}
	if got, want := graph.CoderText(g.Coders, pay.TimerFamilySpecs["t"].TimerFamilyCoderId), "timer<lp<money>,global_window>"; got != want {
		t.Errorf("timers have %s, want %s", got, want)
	}
	if got, want := graph.CoderText(g.Coders, pay.StateSpecs["list"].GetOrderedListSpec().ElementCoderId), "lp<money>"; got != want {
		t.Errorf("list has %s, want %s", got, want)
	}
}

// TestNames: names that rewrites choose don't meet names that a pipeline has.
func TestNames(t *testing.T) {
	g, err := graphtest.Parse(`
		impulse Start out=a
		pardo   Split in=a out=b
		combine Sum in=b out=s
		pardo   Sum.group in=s out=Sum.grouped
	`)
	if err != nil {
		t.Fatal(err)
	}
	if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
		t.Fatal(err)
	}
	check(t, g)
	if g.Transform("Sum.group").Kind != graph.ParDo || g.Transform("Sum.group'") == nil {
		t.Errorf("got\n%s", g)
	}
}

// FuzzApply: what is a graph can be rewritten, keeps the promises that later
// rooms rely on, and becomes the same when it is done again.
func FuzzApply(f *testing.F) {
	files, _ := filepath.Glob("testdata/cases/*")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(text), "\napply") {
			input, _, _ := strings.Cut(part, "\n----")
			f.Add(strings.TrimPrefix(strings.TrimSpace(input), "no-lifting"), slices.Contains(strings.Fields(part), "no-lifting"))
		}
	}
	f.Fuzz(func(t *testing.T, text string, noLifting bool) {
		g, err := graphtest.Parse(text)
		if err != nil {
			return
		}
		opts := transforms.Options{NoLifting: noLifting}
		out, err := transforms.Apply(g, opts)
		if err != nil {
			return
		}
		check(t, out)
		if again, err := transforms.Apply(g, opts); err != nil || again.String() != out.String() {
			t.Errorf("rewritten twice, it was\n%s\nand then\n%s (%v)", out, again, err)
		}
	})
}
