package transforms

import (
	"maps"
	"slices"
	"strconv"

	"trestle/coders"
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
			t = m.code(g, t)
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
// type; Python does where none was given. Where that is a coder of pairs, whose
// keys may be asked for, a worker converts what was written otherwise.
func (m *maker) code(g *graph.Graph, t *graph.Transform) *graph.Transform {
	var pay pipepb.TestStreamPayload
	if proto.Unmarshal(t.Proto.GetSpec().GetPayload(), &pay) != nil || m.g.Coders[pay.GetCoderId()] == nil {
		return t // whoever plays it will say so
	}
	played := *t
	played.Proto = proto.Clone(t.Proto).(*pipepb.PTransform)
	played.Outputs = slices.Clone(t.Outputs)
	for _, tag := range slices.Sorted(maps.Keys(t.Proto.GetOutputs())) {
		out := graph.CollectionID(t.Proto.GetOutputs()[tag])
		c := *m.g.Collections[out]
		if same(m.g.Coders, c.Coder, pay.GetCoderId()) {
			continue
		}
		env := someEnvironment(g, t, &c)
		if env == "" || !m.pairs(c.Coder) || m.pairs(pay.GetCoderId()) {
			c.Declared, c.Coder = c.Coder, pay.GetCoderId()
			m.g.Collections[out] = &c
			continue
		}
		written := m.collection(string(out)+".played", &c, pay.GetCoderId())
		m.add(made{
			of: t, suffix: ".transcode", name: "Transcode",
			kind: graph.ParDo, urn: graph.URNFlatten, environment: env,
			in: written, out: []graph.CollectionID{out},
		})
		played.Proto.Outputs[tag] = string(written)
		played.Outputs[slices.Index(played.Outputs, out)] = written
	}
	return &played
}

// pairs reports whether a coder is one of pairs.
func (m *maker) pairs(coder string) bool { return m.g.Coders[coder].GetSpec().GetUrn() == coders.URNKV }
