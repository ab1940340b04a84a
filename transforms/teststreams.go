package transforms

import (
	"maps"
	"slices"
	"strconv"

	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// testStreams makes a TestStream of several outputs into several of one. They
// play the same events, each those of its output, in step with each other.
func testStreams(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	for _, t := range g.Transforms {
		if t.Kind == graph.TestStream {
			m.code(t)
		}
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

// code gives what a TestStream makes the coder that its elements are written
// in. An SDK may know the collection by another one, which it has from the
// type; Python does where none was given.
func (m *maker) code(t *graph.Transform) {
	var pay pipepb.TestStreamPayload
	if proto.Unmarshal(t.Proto.GetSpec().GetPayload(), &pay) != nil || m.g.Coders[pay.GetCoderId()] == nil {
		return // whoever plays it will say so
	}
	for _, out := range t.Outputs {
		if c := *m.g.Collections[out]; !same(m.g.Coders, c.Coder, pay.GetCoderId()) {
			c.Declared, c.Coder = c.Coder, pay.GetCoderId()
			m.g.Collections[out] = &c
		}
	}
}
