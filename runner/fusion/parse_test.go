package fusion_test

import (
	"fmt"
	"strings"

	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

var kinds = map[string]struct {
	kind graph.Kind
	urn  string
}{
	"impulse":   {graph.Impulse, "beam:transform:impulse:v1"},
	"pardo":     {graph.ParDo, "beam:transform:pardo:v1"},
	"gbk":       {graph.GroupByKey, "beam:transform:group_by_key:v1"},
	"flatten":   {graph.Flatten, "beam:transform:flatten:v1"},
	"reshuffle": {graph.Reshuffle, "beam:transform:reshuffle:v1"},
	"sdf":       {graph.Restrictions, "beam:transform:sdf_process_sized_element_and_restrictions:v1"},
}

// parse reads a graph, one transform a line:
//
//	pardo Format in=d out=e,f side=x,y env=py stateful origin=Whole
//
// A collection may have a coder behind a colon where it is an output: out=e:str.
func parse(text string) (*graph.Graph, error) {
	g := &graph.Graph{
		Collections:  map[graph.CollectionID]*graph.Collection{},
		Environments: map[graph.EnvironmentID]*pipepb.Environment{},
		Windowings:   map[string]*pipepb.WindowingStrategy{"w": {}},
		Coders:       map[string]*pipepb.Coder{},
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("line %q", line)
		}
		k, ok := kinds[words[0]]
		if !ok {
			return nil, fmt.Errorf("kind %q", words[0])
		}
		id := graph.TransformID(words[1])
		t := &graph.Transform{ID: id, Name: "all/" + words[1], Kind: k.kind, Origin: id}
		t.Proto = &pipepb.PTransform{
			UniqueName: t.Name,
			Spec:       &pipepb.FunctionSpec{Urn: k.urn},
			Inputs:     map[string]string{},
			Outputs:    map[string]string{},
		}
		if k.kind == graph.ParDo || k.kind == graph.Restrictions {
			t.Environment = "sdk"
		}
		if err := options(g, t, words[2:]); err != nil {
			return nil, err
		}
		t.Proto.EnvironmentId = string(t.Environment)
		g.Transforms = append(g.Transforms, t)
	}
	return g, nil
}

func options(g *graph.Graph, t *graph.Transform, words []string) error {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		for i, v := range strings.Split(value, ",") {
			switch key {
			case "in":
				t.Inputs = append(t.Inputs, graph.CollectionID(v))
				t.Proto.Inputs[fmt.Sprintf("in%d", i)] = v
			case "side":
				tag := fmt.Sprintf("side%d", i)
				t.SideInputs = append(t.SideInputs, graph.SideInput{Tag: tag, Collection: graph.CollectionID(v), Access: "iterable"})
				t.Proto.Inputs[tag] = v
			case "out":
				output(g, t, i, v)
			case "env":
				t.Environment = graph.EnvironmentID(v)
			case "window": // of the outputs, which come before
				for _, c := range t.Outputs {
					g.Collections[c].Windowing = v
				}
				t.Proto.Spec = &pipepb.FunctionSpec{Urn: graph.URNWindowInto}
			case "origin":
				t.Origin = graph.TransformID(v)
			case "stateful":
				t.Stateful = true
			default:
				return fmt.Errorf("word %q", w)
			}
		}
	}
	if t.Environment != "" {
		content, _, _ := strings.Cut(string(t.Environment), "#") // py#1 and py#2 are of equal content
		g.Environments[t.Environment] = &pipepb.Environment{Urn: content}
	}
	return nil
}

func output(g *graph.Graph, t *graph.Transform, i int, v string) {
	name, coder, ok := strings.Cut(v, ":")
	if !ok {
		coder = "bytes"
	}
	id := graph.CollectionID(name)
	content, _, _ := strings.Cut(coder, "#")
	g.Coders[coder] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: content}}
	g.Collections[id] = &graph.Collection{ID: id, Coder: coder, Windowing: "w", Bounded: true, Producer: t.ID}
	t.Outputs = append(t.Outputs, id)
	t.Proto.Outputs[fmt.Sprintf("out%d", i)] = name
}
