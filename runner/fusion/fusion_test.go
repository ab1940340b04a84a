package fusion_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"trestle/runner/fusion"
	"trestle/runner/graph/graphtest"
	"trestle/runner/region"
	"trestle/transforms"

	"github.com/cockroachdb/datadriven"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("1000"); err != nil { // small graphs are quick
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestFuse reads graphs and prints plans: "fuse" prints stages and datasets,
// "protos" the transforms of the stages with their collections, "whole" takes a
// pipeline as a client sends it through all that is done to it. After an
// intended change run go test ./runner/fusion -rewrite, then read the diff as
// you would read code.
func TestFuse(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasSuffix(path, ".fail") {
			return // what a property left when it failed, for its own test
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "whole" {
				return whole(t, d.Input)
			}
			g, err := parse(d.Input)
			if err != nil {
				t.Fatal(err)
			}
			g.Streaming = d.HasArg("streaming")
			p, err := fusion.Fuse(g, g.Components())
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			checkPlan(t, g, p)
			if d.HasArg("regions") {
				region.Compute(p.Graph, region.Options{})
			}
			switch d.Cmd {
			case "fuse":
				return p.String()
			case "protos":
				return protos(p)
			case "name":
				return p.Graph.Stages[0].Name + "\n"
			}
			t.Fatalf("command %q", d.Cmd)
			return ""
		})
	})
}

func whole(t *testing.T, text string) string {
	g, err := graphtest.Parse(text)
	if err == nil {
		g, err = transforms.Apply(g, transforms.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := fusion.Fuse(g, g.Components())
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	checkPlan(t, g, p)
	region.Compute(p.Graph, region.Options{})
	return p.String()
}

// protos prints the transforms of each stage as a worker is told them.
func protos(p *fusion.Plan) string {
	var b strings.Builder
	for _, v := range p.Graph.Stages {
		s := p.Stages[v.ID]
		b.WriteString(string(v.ID) + " reads " + s.Collection + "\n")
		for _, id := range s.Transforms {
			t := p.Components.GetTransforms()[id]
			b.WriteString("  " + id + " in " + pairs(t.GetInputs()) + " out " + pairs(t.GetOutputs()))
			if origin := s.Origins[id]; origin != "" {
				b.WriteString(" for " + origin)
			}
			b.WriteString(" env " + t.GetEnvironmentId() + "\n")
		}
	}
	return b.String()
}

func pairs(m map[string]string) string {
	var words []string
	for _, k := range sortedKeys(m) {
		words = append(words, k+"="+m[k])
	}
	return "{" + strings.Join(words, " ") + "}"
}
