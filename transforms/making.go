package transforms

import (
	"iter"
	"maps"

	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// inTag and outTag are the local names of what rewrites connect. SDKs take any,
// but Go's wants the letter and the number.
const (
	inTag  = "i0"
	outTag = "i0"
)

// A maker adds to a graph under construction.
type maker struct {
	g    *graph.Graph
	used map[graph.TransformID]bool
}

// remake starts a graph that has all of g but its transforms.
func remake(g *graph.Graph) *maker {
	m := &maker{g: g.Clone(), used: map[graph.TransformID]bool{}}
	m.g.Transforms = nil
	for _, t := range g.Transforms {
		m.used[t.ID] = true
		for p := range inside(t) {
			m.used[p.ID] = true
		}
	}
	return m
}

// inside are the parts of a transform and the parts of those.
func inside(t *graph.Transform) iter.Seq[*graph.Transform] {
	return func(yield func(*graph.Transform) bool) {
		for _, p := range t.Parts {
			if !yield(p) {
				return
			}
			for q := range inside(p) {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// done puts the graph in order.
func (m *maker) done() *graph.Graph {
	m.g.Sort()
	return m.g
}

// keep takes over a transform as it is.
func (m *maker) keep(ts ...*graph.Transform) { m.g.Transforms = append(m.g.Transforms, ts...) }

// coder adds the coder that a standard URN makes of its parts.
func (m *maker) coder(id, urn string, parts ...string) string {
	c := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: parts}
	for m.g.Coders[id] != nil && !proto.Equal(m.g.Coders[id], c) {
		id += "'"
	}
	m.g.Coders[id] = c
	return id
}

// collection adds a collection that is like another but for its coder.
func (m *maker) collection(id string, like *graph.Collection, coder string) graph.CollectionID {
	for m.g.Collections[graph.CollectionID(id)] != nil {
		id += "'"
	}
	c := *like
	c.ID, c.Coder, c.Declared, c.Producer = graph.CollectionID(id), coder, "", ""
	m.g.Collections[c.ID] = &c
	return c.ID
}

// made describes a transform that stands for another one, or for a part of it.
type made struct {
	of          *graph.Transform
	suffix      string // of id and name
	name        string
	kind        graph.Kind
	urn         string
	payload     []byte
	environment graph.EnvironmentID
	ins, outs   map[string]string
	parDo       *pipepb.ParDoPayload
	sides       []graph.SideInput
	in          graph.CollectionID
	out         []graph.CollectionID
}

// add makes a transform; it returns its id.
func (m *maker) add(a made) graph.TransformID {
	id := a.of.ID + graph.TransformID(a.suffix)
	for m.used[id] {
		id += "'"
	}
	m.used[id] = true
	name := a.of.Name + "/" + a.name
	if a.ins == nil {
		a.ins = map[string]string{inTag: string(a.in)}
	}
	if a.outs == nil {
		a.outs = map[string]string{outTag: string(a.out[0])}
	}
	var main []graph.CollectionID
	if a.in != "" {
		main = append(main, a.in)
	}
	m.keep(&graph.Transform{
		ID:   id,
		Name: name,
		Kind: a.kind,
		Proto: &pipepb.PTransform{
			UniqueName:    name,
			Spec:          &pipepb.FunctionSpec{Urn: a.urn, Payload: a.payload},
			Inputs:        a.ins,
			Outputs:       a.outs,
			EnvironmentId: string(a.environment),
			Annotations:   a.of.Proto.GetAnnotations(),
		},
		Environment: a.environment,
		ParDo:       a.parDo,
		Inputs:      main,
		SideInputs:  a.sides,
		Outputs:     a.out,
		Origin:      a.of.Origin,
	})
	return id
}

// mainTag is the local name of t's one main input.
func mainTag(t *graph.Transform) string {
	for tag := range t.Proto.GetInputs() {
		if t.ParDo.GetSideInputs()[tag] == nil {
			return tag
		}
	}
	return ""
}

// readFrom gives inputs of t with another collection under a tag.
func readFrom(t *graph.Transform, tag string, id graph.CollectionID) map[string]string {
	in := maps.Clone(t.Proto.GetInputs())
	in[tag] = string(id)
	return in
}

// withInputs is t with other main inputs, given as its proto's inputs.
func withInputs(t *graph.Transform, ins map[string]string, main ...graph.CollectionID) *graph.Transform {
	c := *t
	c.Proto = proto.Clone(t.Proto).(*pipepb.PTransform)
	c.Proto.Inputs = ins
	c.Inputs = main
	return &c
}
