package transforms

import (
	"slices"

	"trestle/coders"
	"trestle/internal/invariant"
	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// wireCoders gives each collection the coder of its bytes between worker and
// runner, and keeps the one that SDKs know it by as Declared. What the runner
// does alone copies bytes, so there the output's coder follows from the
// input's, whatever was declared. Timers, ordered lists and windows get
// coders to match.
func wireCoders(g *graph.Graph, _ Options) (*graph.Graph, error) {
	m := remake(g)
	for id, w := range g.Windowings {
		if wire := coders.WindowWireID(m.g.Coders, w.GetWindowCoderId()); wire != w.GetWindowCoderId() {
			c := proto.Clone(w).(*pipepb.WindowingStrategy)
			c.WindowCoderId = wire
			m.g.Windowings[id] = c
		}
	}
	for _, t := range g.Transforms { // producers come before consumers
		for _, id := range t.Outputs {
			m.wire(id, m.outCoder(t, id))
		}
	}
	for _, t := range g.Transforms {
		m.keep(m.withWireState(t))
	}
	return m.done(), nil
}

// wire replaces a collection by one with that coder.
func (m *maker) wire(id graph.CollectionID, coder string) {
	c := *m.g.Collections[id]
	if c.Declared == "" {
		c.Declared = c.Coder
	}
	if c.Coder = coder; c.Declared == c.Coder {
		c.Declared = ""
	}
	m.g.Collections[id] = &c
}

func (m *maker) outCoder(t *graph.Transform, out graph.CollectionID) string {
	wire := coders.WireID(m.g.Coders, m.g.Collections[out].Coder)
	switch t.Kind {
	case graph.GroupByKey:
		parts := m.parts(m.g.Collections[t.Inputs[0]].Coder, coders.URNKV, 2)
		invariant.Check(parts != nil, "input of %s lost its kv coder", t.ID)
		if !m.isGrouped(wire, parts[0], parts[1]) {
			id := string(t.ID)
			return m.coder(id+".out", coders.URNKV, parts[0], m.coder(id+".iter", coders.URNIterable, parts[1]))
		}
	case graph.Flatten, graph.Reshuffle:
		// A kv keeps the coder that was chosen for it: its key may be about to be
		// grouped by, and have a deterministic coder on this side alone. Of other
		// elements it is cheaper to leave the bytes as they are, if all agree.
		if in := m.common(t.Inputs); in != "" && m.g.Coders[wire].GetSpec().GetUrn() != coders.URNKV {
			return in
		}
	}
	return wire
}

// isGrouped reports whether a coder is kv<key, iterable<value>>.
func (m *maker) isGrouped(coder, key, value string) bool {
	kv := m.parts(coder, coders.URNKV, 2)
	if kv == nil || !same(m.g.Coders, kv[0], key) {
		return false
	}
	values := m.parts(kv[1], coders.URNIterable, 1)
	return values != nil && same(m.g.Coders, values[0], value)
}

// parts are a coder's components if it is of that kind, or else nil.
func (m *maker) parts(coder, urn string, n int) []string {
	c := m.g.Coders[coder]
	if c.GetSpec().GetUrn() != urn || len(c.GetComponentCoderIds()) != n {
		return nil
	}
	return c.GetComponentCoderIds()
}

// common is the coder that all collections have, or "".
func (m *maker) common(ids []graph.CollectionID) string {
	if len(ids) == 0 {
		return ""
	}
	first := m.g.Collections[ids[0]].Coder
	for _, id := range ids[1:] {
		if !same(m.g.Coders, first, m.g.Collections[id].Coder) {
			return ""
		}
	}
	return first
}

// same reports whether two coders are alike, whatever their ids. Graphs hold no
// coder of more than a few thousand parts, so the trees may be walked.
func same(protos map[string]*pipepb.Coder, a, b string) bool {
	if a == b {
		return true
	}
	x, y := protos[a], protos[b]
	return proto.Equal(x.GetSpec(), y.GetSpec()) &&
		slices.EqualFunc(x.GetComponentCoderIds(), y.GetComponentCoderIds(),
			func(a, b string) bool { return same(protos, a, b) })
}

// withWireState is t with coders that the runner can cut for what it must cut
// of t's state: timers and the entries of ordered lists.
func (m *maker) withWireState(t *graph.Transform) *graph.Transform {
	if !t.Stateful {
		return t
	}
	pay := proto.Clone(t.ParDo).(*pipepb.ParDoPayload)
	in := m.g.Collections[t.Inputs[0]]
	key := m.g.Coders[in.Coder].GetComponentCoderIds()[0]
	window := m.g.Windowings[in.Windowing].GetWindowCoderId()
	for _, f := range pay.GetTimerFamilySpecs() {
		if parts := m.g.Coders[f.GetTimerFamilyCoderId()].GetComponentCoderIds(); len(parts) != 2 ||
			!same(m.g.Coders, parts[0], key) || !same(m.g.Coders, parts[1], window) {
			f.TimerFamilyCoderId = m.coder("timer("+key+","+window+")", coders.URNTimer, key, window)
		}
	}
	for _, s := range pay.GetStateSpecs() {
		if l := s.GetOrderedListSpec(); l != nil {
			l.ElementCoderId = coders.LengthPrefixID(m.g.Coders, l.GetElementCoderId())
		}
	}
	if proto.Equal(pay, t.ParDo) {
		return t
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(pay)
	invariant.Check(err == nil, "payload of %s can't be written again: %v", t.ID, err)
	c := *t
	c.ParDo = pay
	c.Proto = proto.Clone(t.Proto).(*pipepb.PTransform)
	c.Proto.Spec = &pipepb.FunctionSpec{Urn: t.Proto.GetSpec().GetUrn(), Payload: data}
	return &c
}
