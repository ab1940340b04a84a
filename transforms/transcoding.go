package transforms

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"trestle/runner/graph"
)

// transcoding makes sure that what goes into a Flatten or Reshuffle has the
// coder that comes out: the runner copies bytes. An input with another coder
// goes through a Flatten of that one input first, which a worker does, and
// which fuses with what made the input.
func transcoding(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	var errs []error
	for _, t := range g.Transforms {
		if t.Kind != graph.Flatten && t.Kind != graph.Reshuffle {
			m.keep(t)
			continue
		}
		t, err := transcoded(m, g, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.keep(t)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return m.done(), nil
}

func transcoded(m *maker, g *graph.Graph, t *graph.Transform) (*graph.Transform, error) {
	out := g.Collections[t.Outputs[0]]
	ins := maps.Clone(t.Proto.GetInputs())
	var main []graph.CollectionID
	changed := false
	for i, tag := range slices.Sorted(maps.Keys(ins)) {
		in := g.Collections[graph.CollectionID(ins[tag])]
		if same(g.Coders, in.Coder, out.Coder) {
			main = append(main, in.ID)
			continue
		}
		env := someEnvironment(g, t, in)
		if env == "" {
			return nil, &graph.PipelineError{
				Where: fmt.Sprintf("transform %q (%s)", t.Name, t.ID),
				What:  fmt.Sprintf("input %q has another coder than the output, and the pipeline has no environment that could convert it", tag),
			}
		}
		conv := m.collection(fmt.Sprintf("%s.transcoded%d", t.ID, i), in, out.Coder)
		withDeclared := *m.g.Collections[conv]
		withDeclared.Declared = out.Declared
		m.g.Collections[conv] = &withDeclared
		m.add(made{
			of: t, suffix: fmt.Sprintf(".transcode%d", i), name: fmt.Sprintf("Transcode%d", i),
			kind: graph.ParDo, urn: graph.URNFlatten, environment: env,
			in: in.ID, out: []graph.CollectionID{conv},
		})
		ins[tag], changed = string(conv), true
		main = append(main, conv)
	}
	if !changed {
		return t, nil
	}
	return withInputs(t, ins, main...), nil
}

// someEnvironment finds who can convert a collection: best whoever made it, then
// the one that the union itself was given to, then any of its consumers, then
// anyone.
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
