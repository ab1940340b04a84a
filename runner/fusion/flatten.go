package fusion

import (
	"fmt"
	"slices"

	"trestle/runner/graph"
	"trestle/runner/jobgraph"
)

// flatten makes the parts of t's inputs the parts of its output. Parts in one
// stage become one there, so that a collection never has two parts in a stage,
// and a part whose coder isn't that of the output passes through a Flatten of
// one input, which gives it the right one.
func (f *fuser) flatten(t *graph.Transform) error {
	f.startJoining(nil)
	out := t.Outputs[0]
	again, err := f.inWorker(t)
	if err != nil {
		return err
	}
	var homes []*stage // distinct, in order of parts
	inside := map[*stage][]*value{}
	for _, in := range t.Inputs {
		for _, p := range f.parts[in] {
			v := p.value
			if v == nil {
				if v = again[p.root]; v == nil {
					if err := f.addPart(out, p); err != nil {
						return err
					}
					continue
				}
			}
			if inside[v.stage] == nil {
				homes = append(homes, v.stage)
			}
			inside[v.stage] = append(inside[v.stage], v)
		}
	}
	for _, s := range homes {
		v := inside[s][0]
		if len(inside[s]) > 1 || !f.sameCoder(v.of, out) {
			v = s.flattened(t, inside[s])
		}
		if err := f.addPart(out, part{value: v}); err != nil {
			return err
		}
	}
	return nil
}

// inWorker finds the roots among the parts of a Flatten's inputs that a worker
// must flatten: those that come several times or with another coder than the
// output's. It gives the output of each in a stage with an environment.
func (f *fuser) inWorker(t *graph.Transform) (map[*graph.Transform]*value, error) {
	var order []*graph.Transform
	seen := map[*graph.Transform]bool{}
	found := map[*graph.Transform]*value{}
	for _, in := range t.Inputs {
		for _, p := range f.parts[in] {
			if p.root == nil {
				continue
			}
			if seen[p.root] || !f.sameCoder(p.root.Outputs[0], t.Outputs[0]) {
				order = append(order, p.root)
			}
			seen[p.root] = true
		}
	}
	if len(order) == 0 {
		return nil, nil
	}
	env := f.environmentNear(t)
	if env == "" {
		return nil, &graph.PipelineError{
			Where: fmt.Sprintf("transform %q (%s)", t.Name, t.ID),
			What:  "can't flatten its inputs, for the pipeline has no environment to do it in",
		}
	}
	for _, root := range order {
		if found[root] == nil {
			found[root] = f.rootStage(root, env).root
		}
	}
	return found, nil
}

// environmentNear is the environment of the nearest transform behind t, where
// what is flattened for it is most likely to be needed; else of the first
// transform that has one.
func (f *fuser) environmentNear(t *graph.Transform) graph.EnvironmentID {
	seen := map[*graph.Transform]bool{t: true}
	for todo := []*graph.Transform{t}; len(todo) > 0; todo = todo[1:] {
		for _, c := range todo[0].Outputs {
			for _, r := range f.readers[c] {
				if r.Kind == graph.ParDo || r.Kind == graph.Restrictions {
					return f.environment(r)
				}
				if !seen[r] {
					seen[r] = true
					todo = append(todo, r)
				}
			}
		}
	}
	for _, t := range f.g.Transforms {
		if t.Kind == graph.ParDo || t.Kind == graph.Restrictions {
			return f.environment(t)
		}
	}
	return ""
}

// datasets writes c, and gives the datasets that together hold it.
func (f *fuser) datasets(c graph.CollectionID, p jobgraph.Partitioning) []*dataset {
	return write(f.valuesOf(c), p)
}

func write(values []*value, p jobgraph.Partitioning) []*dataset {
	var ds []*dataset
	for _, v := range values {
		ds = append(ds, v.write(p))
	}
	return ds
}

// valuesOf gives the values that together are c, each once. An Impulse or
// GroupByKey gets a stage of its own for it, so that its output doesn't go to a
// worker just to come back. What is written behind a Reshuffle is what comes
// into it: the dataset does the reshuffling and the keeping.
func (f *fuser) valuesOf(c graph.CollectionID) []*value {
	if vs, ok := f.values[c]; ok {
		return vs
	}
	var vs []*value
	have := map[*value]bool{}
	for _, p := range f.parts[c] {
		have[p.value] = true
	}
	for _, p := range f.parts[c] {
		if p.value != nil {
			vs = append(vs, p.value)
			continue
		}
		for _, v := range f.rootValues(p.root, have) {
			have[v] = true
			vs = append(vs, v)
		}
	}
	f.values[c] = vs
	return vs
}

// rootValues gives the values that are the output of a root. They are none of
// those in have: a dataset is read once by one reader.
func (f *fuser) rootValues(root *graph.Transform, have map[*value]bool) []*value {
	if root.Kind == graph.Reshuffle {
		vs := f.valuesOf(root.Inputs[0])
		if !slices.ContainsFunc(vs, func(v *value) bool { return have[v] }) {
			return vs
		}
	}
	return []*value{f.rootStage(root, "").root}
}

// sameCoder reports whether elements of a are encoded as those of b are.
func (f *fuser) sameCoder(a, b graph.CollectionID) bool {
	return a == b || f.equalCoders(f.g.Collections[a].Coder, f.g.Collections[b].Coder)
}

func (f *fuser) equalCoders(a, b string) bool {
	if a == b {
		return true
	}
	pair := [2]string{a, b}
	if equal, ok := f.coders[pair]; ok {
		return equal
	}
	f.coders[pair] = false // so that even coders that hold themselves come to an end
	x, y := f.g.Coders[a], f.g.Coders[b]
	equal := x != nil && y != nil &&
		x.GetSpec().GetUrn() == y.GetSpec().GetUrn() &&
		string(x.GetSpec().GetPayload()) == string(y.GetSpec().GetPayload()) &&
		slices.EqualFunc(x.GetComponentCoderIds(), y.GetComponentCoderIds(), f.equalCoders)
	f.coders[pair] = equal
	return equal
}
