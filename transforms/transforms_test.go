package transforms_test

import (
	"testing"

	"trestle/runner/graph/graphtest"
	"trestle/transforms"

	"github.com/cockroachdb/datadriven"
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
			return out.String()
		})
	})
}
