package transforms

import (
	"fmt"

	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// bounds puts the descriptions of bounded sources where fusion looks for them:
// into the payloads of their Impulses, and nothing else into any Impulse's. An
// Impulse that something else reads, too, is an ordinary one.
func bounds(g *graph.Graph, _ Options) (*graph.Graph, error) {
	readers := map[graph.CollectionID][]*graph.Transform{} // for look-ups
	for _, t := range g.Transforms {
		for _, c := range t.Reads() {
			readers[c] = append(readers[c], t)
		}
	}
	m := remake(g)
	for _, t := range g.Transforms {
		if t.Kind != graph.Impulse {
			m.keep(t)
			continue
		}
		spec := &pipepb.FunctionSpec{Urn: graph.URNImpulse}
		if by := readers[t.Outputs[0]]; len(by) == 1 {
			var err error
			if spec.Payload, err = boundPayload(t, by[0]); err != nil {
				return nil, err
			}
		}
		if string(spec.Payload) != string(t.Proto.GetSpec().GetPayload()) {
			made := *t
			made.Proto = proto.Clone(t.Proto).(*pipepb.PTransform)
			made.Proto.Spec = spec
			t = &made
		}
		m.keep(t)
	}
	return m.done(), nil
}

// boundPayload is the payload of an Impulse and its only reader.
func boundPayload(impulse, reader *graph.Transform) ([]byte, error) {
	bound := graph.BoundOf(impulse.Proto)
	if bound == nil {
		bound = graph.AnnotatedBound(reader.Proto)
	}
	if bound == nil {
		return nil, nil
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(bound)
	if err != nil {
		return nil, fmt.Errorf("transform %q (%s): %w", reader.Name, reader.ID, err)
	}
	return payload, nil
}
