package transforms

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"trestle/runner/graph"
)

// transcoding makes sure that what goes into a Reshuffle has the coder that
// comes out: the runner copies bytes. An input with another coder goes through
// a Flatten of that one input first, which a worker does, and which fuses with
// what made the input. (Flattens of their own are converted where fusion takes
// them apart, since it knows which inputs meet in one stage.)
func transcoding(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	var errs []error
	for _, t := range g.Transforms {
		if t.Kind == graph.Reshuffle && !same(g.Coders, g.Collections[t.Inputs[0]].Coder, g.Collections[t.Outputs[0]].Coder) {
			var err error
			if t, err = transcoded(m, g, t); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		m.keep(t)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return m.done(), nil
}

// transcoded adds the conversion of t's input and gives t with that as input.
func transcoded(m *maker, g *graph.Graph, t *graph.Transform) (*graph.Transform, error) {
	in, out := g.Collections[t.Inputs[0]], g.Collections[t.Outputs[0]]
	env := someEnvironment(g, t, in)
	if env == "" {
		return nil, &graph.PipelineError{
			Where: fmt.Sprintf("transform %q (%s)", t.Name, t.ID),
			What:  "input has another coder than the output, and the pipeline has no environment that could convert it; give both the same coder",
		}
	}
	conv := m.collection(string(t.ID)+".transcoded", in, out.Coder)
	c := *m.g.Collections[conv]
	c.Declared = out.Declared
	m.g.Collections[conv] = &c
	m.add(made{
		of: t, suffix: ".transcode", name: "Transcode",
		kind: graph.ParDo, urn: graph.URNFlatten, environment: env,
		in: in.ID, out: []graph.CollectionID{conv},
	})
	return withInputs(t, readFrom(t, mainTag(t), conv), conv), nil
}

// someEnvironment finds who can convert a collection: best whoever made it, then
// the one that t itself was given to, then any of its consumers, then anyone.
func someEnvironment(g *graph.Graph, t *graph.Transform, in *graph.Collection) graph.EnvironmentID {
	if p := g.Transform(in.Producer); p != nil && p.Environment != "" {
		return p.Environment
	}
	if e := graph.EnvironmentID(t.Proto.GetEnvironmentId()); g.Environments[e] != nil {
		return e
	}
	for _, c := range g.Transforms {
		if c.Environment != "" && slices.Contains(c.Reads(), t.Outputs[0]) {
			return c.Environment
		}
	}
	if all := slices.Sorted(maps.Keys(g.Environments)); len(all) > 0 {
		return all[0]
	}
	return ""
}
