package transforms

import (
	"trestle/runner/graph"
)

// stableInputs puts a Reshuffle before each DoFn that must see the same
// elements whenever it is tried again.
func stableInputs(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	for _, t := range g.Transforms {
		if !t.ParDo.GetRequiresStableInput() || len(t.Inputs) != 1 || fromReshuffle(g, t.Inputs[0]) {
			m.keep(t)
			continue
		}
		in := g.Collections[t.Inputs[0]]
		stable := m.collection(string(t.ID)+".stable", in, in.Coder)
		m.add(made{
			of: t, suffix: ".stabilise", name: "StableInput", kind: graph.Reshuffle, urn: graph.URNReshuffle,
			in: in.ID, out: []graph.CollectionID{stable},
		})
		m.keep(withInputs(t, readFrom(t, mainTag(t), stable), stable))
	}
	return m.done(), nil
}

func fromReshuffle(g *graph.Graph, c graph.CollectionID) bool {
	p := g.Transform(g.Collections[c].Producer)
	return p != nil && p.Kind == graph.Reshuffle
}
