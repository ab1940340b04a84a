package transforms

import (
	"maps"
	"slices"
	"strconv"

	"trestle/runner/graph"
)

// testStreams makes a TestStream of several outputs into several of one. They
// play the same events, each those of its output, in step with each other.
func testStreams(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	for _, t := range g.Transforms {
		if t.Kind != graph.TestStream || len(t.Outputs) < 2 {
			m.keep(t)
			continue
		}
		outs := t.Proto.GetOutputs()
		for i, tag := range slices.Sorted(maps.Keys(outs)) {
			m.add(made{
				of: t, suffix: ".play" + strconv.Itoa(i), name: "Play/" + tag,
				kind: graph.TestStream, urn: graph.URNTestStream, payload: t.Proto.GetSpec().GetPayload(),
				ins: map[string]string{}, outs: map[string]string{tag: outs[tag]},
				out: []graph.CollectionID{graph.CollectionID(outs[tag])},
			})
		}
	}
	return m.done(), nil
}
