package graph_test

import (
	"testing"

	"trestle/runner/graph/graphtest"

	"github.com/cockroachdb/datadriven"
)

// TestFromProto reads pipelines and prints graphs, or all that is wrong. After
// an intended change run go test ./runner/graph -rewrite, then read the diff as
// you would read code.
func TestFromProto(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			g, err := graphtest.Parse(d.Input)
			if err != nil {
				return err.Error()
			}
			return g.String()
		})
	})
}
