package transforms

import (
	"trestle/coders"
	"trestle/internal/invariant"
	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// combines lifts combines per key: what a worker has at hand is combined before
// it is grouped, so that less is.
//
//	in kv<K,V> → precombine kv<K,A> → group kv<K,iterable<A>> → merge kv<K,A> → extract → out
//
// One that may not be lifted is done as its SDK expanded it.
func combines(g *graph.Graph, opts Options) (*graph.Graph, error) {
	m := remake(g)
	for _, t := range g.Transforms {
		combine(m, t, opts)
	}
	return m.done(), nil
}

func combine(m *maker, t *graph.Transform, opts Options) {
	switch {
	case t.Kind != graph.CombinePerKey:
		m.keep(t)
	case !opts.NoLifting && triggerBears(trigger(m.g, t)) && !(m.g.Streaming && firesAgain(m.g, t)):
		dropInside(m, t)
		lift(m, t)
	case len(t.Parts) > 0:
		for _, p := range t.Parts {
			combine(m, p, opts)
		}
	default:
		group(m, t)
	}
}

func trigger(g *graph.Graph, t *graph.Transform) *pipepb.Trigger {
	return g.Windowings[g.Collections[t.Inputs[0]].Windowing].GetTrigger()
}

// triggerBears reports whether a trigger may see accumulators in place of
// elements. One that counts would count fewer.
func triggerBears(t *pipepb.Trigger) bool {
	all := func(ts ...*pipepb.Trigger) bool {
		for _, sub := range ts {
			if !triggerBears(sub) {
				return false
			}
		}
		return true
	}
	switch k := t.GetTrigger().(type) {
	case nil, *pipepb.Trigger_Default_, *pipepb.Trigger_Never_, *pipepb.Trigger_Always_,
		*pipepb.Trigger_AfterProcessingTime_, *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		return true
	case *pipepb.Trigger_ElementCount_:
		return k.ElementCount.GetElementCount() == 1
	case *pipepb.Trigger_AfterEndOfWindow_:
		return all(k.AfterEndOfWindow.GetEarlyFirings(), k.AfterEndOfWindow.GetLateFirings())
	case *pipepb.Trigger_AfterAny_:
		return all(k.AfterAny.GetSubtriggers()...)
	case *pipepb.Trigger_Repeat_:
		return triggerBears(k.Repeat.GetSubtrigger())
	}
	return false
}

// firesAgain reports whether a window of a streaming combine may have several
// panes. What a worker combines ahead is one element then to the trigger, and
// to lateness.
func firesAgain(g *graph.Graph, t *graph.Transform) bool {
	w := g.Windowings[g.Collections[t.Inputs[0]].Windowing]
	switch w.GetTrigger().GetTrigger().(type) {
	case nil, *pipepb.Trigger_Default_, *pipepb.Trigger_Never_:
		return w.GetAllowedLateness() > 0 || w.GetMergeStatus() == pipepb.MergeStatus_NEEDS_MERGE
	}
	return true
}

// dropInside drops the collections within a composite that is done otherwise.
func dropInside(m *maker, t *graph.Transform) {
	for p := range inside(t) {
		for _, c := range p.Outputs {
			if c != t.Outputs[0] {
				delete(m.g.Collections, c)
			}
		}
	}
}

// lift does what combines promises.
func lift(m *maker, t *graph.Transform) {
	in, out := m.g.Collections[t.Inputs[0]], m.g.Collections[t.Outputs[0]]
	payload := t.Proto.GetSpec().GetPayload()
	var pay pipepb.CombinePayload
	err := proto.Unmarshal(payload, &pay)
	invariant.Check(err == nil, "graph accepted a combine payload of %s that is none: %v", t.ID, err)
	id, acc := string(t.ID), pay.GetAccumulatorCoderId()
	key := m.g.Coders[in.Coder].GetComponentCoderIds()[0]
	kv := m.coder(id+".acc", coders.URNKV, key, acc)
	kvs := m.coder(id+".accs", coders.URNKV, key, m.coder(id+".iter", coders.URNIterable, acc))

	pre := m.collection(id+".pre", in, kv)
	grouped := m.collection(id+".grouped", out, kvs)
	merged := m.collection(id+".merged", out, kv)
	part := made{of: t, kind: graph.ParDo, payload: payload, environment: t.Environment}

	p := part
	p.suffix, p.name, p.urn = ".precombine", "Precombine", graph.URNPrecombine
	p.in, p.out = in.ID, []graph.CollectionID{pre}
	m.add(p)
	m.add(made{
		of: t, suffix: ".group", name: "Group", kind: graph.GroupByKey, urn: graph.URNGroupByKey,
		in: pre, out: []graph.CollectionID{grouped},
	})
	p = part
	p.suffix, p.name, p.urn = ".merge", "Merge", graph.URNMergeAccumulators
	p.in, p.out = grouped, []graph.CollectionID{merged}
	m.add(p)
	p = part
	p.suffix, p.name, p.urn = ".extract", "Extract", graph.URNExtractOutputs
	p.in, p.out = merged, t.Outputs
	m.add(p)
}

// group does a combine that came without parts and may not be lifted.
func group(m *maker, t *graph.Transform) {
	in := m.g.Collections[t.Inputs[0]]
	id, kv := string(t.ID), m.g.Coders[in.Coder].GetComponentCoderIds()
	kvs := m.coder(id+".values", coders.URNKV, kv[0], m.coder(id+".iter", coders.URNIterable, kv[1]))
	grouped := m.collection(id+".grouped", m.g.Collections[t.Outputs[0]], kvs)
	m.add(made{
		of: t, suffix: ".group", name: "Group", kind: graph.GroupByKey, urn: graph.URNGroupByKey,
		in: in.ID, out: []graph.CollectionID{grouped},
	})
	m.add(made{
		of: t, suffix: ".combine", name: "Combine", kind: graph.ParDo, urn: graph.URNCombineGroupedValues,
		payload: t.Proto.GetSpec().GetPayload(), environment: t.Environment, in: grouped, out: t.Outputs,
	})
}
