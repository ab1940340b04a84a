package fusion_test

import (
	"strings"
	"testing"

	"trestle/runner/fusion"

	"github.com/cockroachdb/datadriven"
)

// TestFuse reads graphs and prints plans: "fuse" prints stages and datasets,
// "protos" the transforms of the stages with their collections. After an
// intended change run go test ./runner/fusion -rewrite, then read the diff as
// you would read code.
func TestFuse(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			g, err := parse(d.Input)
			if err != nil {
				t.Fatal(err)
			}
			p, err := fusion.Fuse(g, g.Components())
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			checkPlan(t, g, p)
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
