package transforms_test

import (
	"testing"

	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/graph/graphtest"
	"trestle/transforms"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// A stage is bound that begins with an Impulse that is described as a source, or
// whose one reader is.
func TestBounds(t *testing.T) {
	const alone = "impulse I out=a\npardo P in=a out=b\nreshuffle R in=b out=c\npardo Q in=c\n"
	const shared = "impulse I out=a\npardo P in=a\npardo Q in=a\n"
	source := &pipepb.FunctionSpec{Urn: graph.URNBound + "test:v1", Payload: []byte("where")}
	other := &pipepb.FunctionSpec{Urn: "beam:something:v1"}
	for _, tt := range []struct {
		name, pipeline string
		payload        []byte // of I
		annotation     []byte // of P
		want           string
	}{
		{"plain", alone, nil, nil, ""},
		{"payload", alone, marshal(t, source), nil, source.Urn},
		{"annotation", alone, nil, marshal(t, source), source.Urn},
		{"both", alone, marshal(t, source), marshal(t, other), source.Urn},
		{"another payload", alone, marshal(t, other), nil, ""},
		{"junk", alone, []byte{0xff, 1, 2}, []byte{0xff}, ""},
		{"two readers", shared, marshal(t, source), nil, ""},
		{"two readers, one described", shared, nil, marshal(t, source), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g, err := graphtest.Parse(tt.pipeline)
			if err != nil {
				t.Fatal(err)
			}
			g.Transform("I").Proto.Spec.Payload = tt.payload
			g.Transform("P").Proto.Annotations = map[string][]byte{graph.AnnotationBound: tt.annotation}
			if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
				t.Fatal(err)
			}
			plan, err := fusion.Fuse(g, g.Components())
			if err != nil {
				t.Fatal(err)
			}
			first := plan.Graph.Stages[0]
			if first.Bind != tt.want {
				t.Errorf("the stage is bound to %q, want %q", first.Bind, tt.want)
			}
			root := plan.Components.GetTransforms()[plan.Stages[first.ID].RootTransform]
			if got := graph.BoundOf(root); tt.want != "" && !proto.Equal(got, source) || tt.want == "" && len(root.GetSpec().GetPayload()) > 0 {
				t.Errorf("the plan's Impulse is described as %v", got)
			}
		})
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
