package transforms

import (
	"maps"

	"trestle/coders"
	"trestle/runner/graph"
)

// splittables takes a splittable DoFn apart:
//
//	in E → pair kv<E,R> → split and size kv<kv<E,R>,double> → process → outs
//
// where R is the DoFn's coder for restrictions (watermark estimator state
// included). Side inputs go to all three, since SDKs may read them already when
// they think of the first restriction.
func splittables(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	for _, t := range g.Transforms {
		if t.Kind == graph.Splittable {
			split(m, t)
		} else {
			m.keep(t)
		}
	}
	return m.done(), nil
}

func split(m *maker, t *graph.Transform) {
	in, id, tag := m.g.Collections[t.Inputs[0]], string(t.ID), mainTag(t)
	pair := m.coder(id+".pair", coders.URNKV, in.Coder, t.ParDo.GetRestrictionCoderId())
	sized := m.coder(id+".sized", coders.URNKV, pair, m.coder(id+".size", coders.URNDouble))
	paired := m.collection(id+".paired", in, pair)
	ready := m.collection(id+".restrictions", in, sized)

	part := made{
		of: t, kind: graph.ParDo, payload: t.Proto.GetSpec().GetPayload(), environment: t.Environment,
		parDo: t.ParDo, sides: t.SideInputs,
	}
	p := part
	p.suffix, p.name, p.urn = ".pair", "PairWithRestriction", graph.URNPairWithRestriction
	p.in, p.ins, p.out = in.ID, readFrom(t, tag, in.ID), []graph.CollectionID{paired}
	m.add(p)
	p = part
	p.suffix, p.name, p.urn = ".split", "SplitAndSize", graph.URNSplitAndSize
	p.in, p.ins, p.out = paired, readFrom(t, tag, paired), []graph.CollectionID{ready}
	m.add(p)
	p = part
	p.suffix, p.name, p.urn, p.kind = ".process", "Process", graph.URNProcessRestrictions, graph.Restrictions
	p.in, p.ins = ready, readFrom(t, tag, ready)
	p.out, p.outs = t.Outputs, maps.Clone(t.Proto.GetOutputs())
	m.add(p)
}
