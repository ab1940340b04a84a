package fusion_test

import (
	"cmp"
	"maps"
	"slices"

	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/jobgraph"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// checkPlan holds a plan to what every plan promises.
func checkPlan(t failer, g *graph.Graph, p *fusion.Plan) {
	t.Helper()
	made := map[jobgraph.DatasetID]jobgraph.StageID{}
	for i, v := range p.Graph.Stages {
		for _, d := range slices.Concat(v.Inputs, v.SideInputs) {
			if made[d] == "" {
				t.Fatalf("%s reads %s, which no earlier stage writes", v.ID, d)
			}
			if !slices.Contains(p.Graph.Dataset(d).Consumers, v.ID) {
				t.Fatalf("%s reads %s, which doesn't know", v.ID, d)
			}
		}
		for _, d := range v.Outputs {
			made[d] = v.ID
			if p.Graph.Dataset(d).Producer != v.ID || len(p.Graph.Dataset(d).Consumers) == 0 {
				t.Fatalf("dataset %s of %s has another producer or no consumer", d, v.ID)
			}
		}
		if p.Graph.Stage(v.ID) != p.Graph.Stages[i] {
			t.Fatalf("stage %s isn't found", v.ID)
		}
		checkStage(t, p, v, p.Stages[v.ID])
	}
	if len(made) != len(p.Graph.Datasets) {
		t.Fatalf("%d datasets, %d written", len(p.Graph.Datasets), len(made))
	}
}

// checkStage holds that the stage's transforms read what is there before them,
// in one environment, from datasets of one coder.
func checkStage(t failer, p *fusion.Plan, v *jobgraph.Stage, s *fusion.Stage) {
	t.Helper()
	comps := p.Components
	coder := func(collection string) string {
		c := comps.GetPcollections()[collection]
		if c == nil {
			t.Fatalf("%s names collection %s, which isn't there", v.ID, collection)
		}
		return comps.GetCoders()[c.GetCoderId()].GetSpec().GetUrn()
	}
	read := s.Collection
	if s.RootTransform != "" {
		for _, c := range comps.GetTransforms()[s.RootTransform].GetInputs() {
			read = c
		}
	}
	for _, d := range v.Inputs {
		if got := coder(p.Graph.Dataset(d).Collection); got != coder(read) {
			t.Fatalf("%s reads %s with coder %s, wants %s", v.ID, d, got, coder(read))
		}
	}
	there := map[string]bool{s.Collection: true}
	for _, id := range s.Transforms {
		tr := comps.GetTransforms()[id]
		if tr == nil {
			t.Fatalf("%s names transform %s, which isn't there", v.ID, id)
		}
		if a, b := comps.GetEnvironments()[tr.GetEnvironmentId()].GetUrn(), comps.GetEnvironments()[s.Environment].GetUrn(); a != b {
			t.Fatalf("%s in environment %s holds %s of environment %s", v.ID, b, id, a)
		}
		sides := map[string]string{}
		for _, side := range s.SideInputs {
			if side.Transform == id {
				sides[side.Tag] = side.Collection
				for _, d := range side.Datasets {
					if got := coder(p.Graph.Dataset(d).Collection); got != coder(side.Collection) {
						t.Fatalf("%s reads side input %s with coder %s, wants %s", v.ID, d, got, coder(side.Collection))
					}
				}
			}
		}
		for tag, c := range tr.GetInputs() {
			if sides[tag] != c && !there[c] {
				t.Fatalf("%s: %s reads %s, which nothing before it makes", v.ID, id, c)
			}
		}
		for _, c := range tr.GetOutputs() {
			coder(c)
			if there[c] {
				t.Fatalf("%s: %s makes %s, which is there", v.ID, id, c)
			}
			there[c] = true
		}
	}
	for _, o := range s.Outputs {
		if !there[o.Collection] {
			t.Fatalf("%s writes %s, which it hasn't", v.ID, o.Collection)
		}
	}
}
