package fusion_test

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/jobgraph"
	"trestle/runner/region"

	"pgregory.net/rapid"
)

// elements is what a collection holds; in what order doesn't matter.
type elements []uint64

func hash(of ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, of...)
	return h.Sum64()
}

// sum is a number for all of a collection.
func (es elements) sum() uint64 {
	s := slices.Clone(es)
	slices.Sort(s)
	return hash(s)
}

// parDo is what a transform makes of its input: it depends on who it is, on each
// element, and on all of its side inputs.
func parDo(id, tag string, in elements, sides []string) elements {
	slices.Sort(sides)
	var out elements
	for _, e := range in {
		out = append(out, hash(id, tag, e, strings.Join(sides, " ")))
	}
	return out
}

// ran is what each ParDo of the pipeline was given, over all its copies.
type ran map[string]elements

// interpret runs the graph as its author wrote it.
func interpret(g *graph.Graph) ran {
	holds := map[graph.CollectionID]elements{}
	seen := ran{}
	for _, t := range g.Transforms {
		var in elements
		for _, c := range t.Inputs {
			in = append(in, holds[c]...)
		}
		switch t.Kind {
		case graph.Impulse:
			holds[t.Outputs[0]] = elements{1}
		case graph.GroupByKey:
			holds[t.Outputs[0]] = elements{in.sum()}
		case graph.Flatten, graph.Reshuffle:
			holds[t.Outputs[0]] = in
		default:
			seen[string(t.ID)] = in
			var sides []string
			for _, s := range t.SideInputs {
				sides = append(sides, fmt.Sprint(s.Tag, holds[s.Collection].sum()))
			}
			for tag, c := range t.Proto.GetOutputs() {
				holds[graph.CollectionID(c)] = parDo(string(t.ID), tag, in, sides)
			}
		}
	}
	return seen
}

// run runs the plan, stage by stage, from the plan alone.
func run(p *fusion.Plan) ran {
	datasets := map[jobgraph.DatasetID]elements{}
	seen := ran{}
	for _, v := range p.Graph.Stages {
		s := p.Stages[v.ID]
		var in elements
		for _, d := range v.Inputs {
			in = append(in, datasets[d]...)
		}
		switch v.Root {
		case jobgraph.RootImpulse:
			in = elements{1}
		case jobgraph.RootGroup:
			in = elements{in.sum()}
		}
		holds := map[string]elements{s.Collection: in}
		for _, id := range s.Transforms {
			runTransform(p, s, id, holds, datasets, seen)
		}
		for _, o := range s.Outputs {
			for _, d := range o.Datasets {
				datasets[d] = holds[o.Collection]
			}
		}
	}
	return seen
}

func runTransform(p *fusion.Plan, s *fusion.Stage, id string, holds map[string]elements, datasets map[jobgraph.DatasetID]elements, seen ran) {
	t := p.Components.GetTransforms()[id]
	inputs := map[string]string{}
	for tag, c := range t.GetInputs() {
		inputs[tag] = c
	}
	var sides []string
	for _, side := range s.SideInputs {
		if side.Transform == id {
			var all elements
			for _, d := range side.Datasets {
				all = append(all, datasets[d]...)
			}
			sides = append(sides, fmt.Sprint(side.Tag, all.sum()))
			delete(inputs, side.Tag)
		}
	}
	var in elements
	for _, c := range inputs {
		in = append(in, holds[c]...)
	}
	origin := id
	if o := s.Origins[id]; o != "" {
		origin = o
	}
	flatten := t.GetSpec().GetUrn() == kinds["flatten"].urn
	if !flatten {
		seen[origin] = append(seen[origin], in...)
		if seen[origin] == nil {
			seen[origin] = elements{}
		}
	}
	for tag, c := range t.GetOutputs() {
		holds[c] = in
		if !flatten {
			holds[c] = parDo(origin, tag, in, sides)
		}
	}
}

// randomGraph draws a pipeline.
func randomGraph(t *rapid.T) string {
	intn := func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) }
	var collections []string
	some := func(n int) string {
		var cs []string
		for range n {
			cs = append(cs, collections[len(collections)-1-intn(min(len(collections), 8), "collection")])
		}
		return strings.Join(cs, ",")
	}
	var b strings.Builder
	for i := range 2 + intn(18, "transforms") {
		out := fmt.Sprintf("c%d:coder%d", i, intn(2, "coder"))
		kind := intn(12, "kind")
		if len(collections) == 0 {
			kind = 0
		}
		switch {
		case kind == 0:
			fmt.Fprintf(&b, "impulse T%d out=%s\n", i, out)
		case kind == 1:
			fmt.Fprintf(&b, "gbk T%d in=%s out=%s\n", i, some(1), out)
		case kind == 2:
			in := some(1) // a Reshuffle keeps the coder
			fmt.Fprintf(&b, "reshuffle T%d in=%s out=c%d:%s\n", i, in, i, coderIn(b.String(), in))
		case kind <= 5:
			fmt.Fprintf(&b, "flatten T%d in=%s out=%s\n", i, some(1+intn(3, "inputs")), out)
		case kind == 6:
			fmt.Fprintf(&b, "sdf T%d in=%s out=%s\n", i, some(1), out)
		default:
			fmt.Fprintf(&b, "pardo T%d in=%s out=%s env=e%d", i, some(1), out, intn(2, "env"))
			if n := intn(4, "sides"); n > 1 {
				fmt.Fprintf(&b, " side=%s", some(n-1))
			}
			if intn(6, "stateful") == 0 {
				b.WriteString(" stateful")
			}
			b.WriteByte('\n')
		}
		collections = append(collections, fmt.Sprintf("c%d", i))
	}
	return b.String()
}

func coderIn(text, collection string) string {
	_, rest, _ := strings.Cut(text, "out="+collection+":")
	coder, _, _ := strings.Cut(strings.Fields(rest)[0], " ")
	return coder
}

// TestPlansDoWhatPipelinesSay runs random pipelines and their plans: every ParDo
// must be given the same elements and side inputs by both.
func TestPlansDoWhatPipelinesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := randomGraph(t)
		g, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := fusion.Fuse(g, g.Components())
		if err != nil {
			if strings.Contains(err.Error(), "no environment") {
				return
			}
			t.Fatal(err)
		}
		checkPlan(t, g, p)
		want, got := interpret(g), run(p)
		for _, id := range sortedKeys(want) {
			if want[id].sum() != got[id].sum() || got[id] == nil {
				t.Fatalf("%s\n%s\n%s is given %v, wants %v", text, p, id, got[id], want[id])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d ParDos ran of %d", len(got), len(want))
		}
		checkCuts(t, p)
		for _, mode := range []region.Mode{region.AllBlocking, region.PointwisePipelined, region.AllPipelined} {
			region.Compute(p.Graph, region.Options{Mode: mode}) // checks itself
		}
	})
}

// checkCuts holds that every pointwise dataset between stages of one environment
// is there for a reason: fused, the two would wait for each other.
func checkCuts(t failer, p *fusion.Plan) {
	t.Helper()
	for _, d := range p.Graph.Datasets {
		for _, c := range d.Consumers {
			a, b := p.Graph.Stage(d.Producer), p.Graph.Stage(c)
			if d.Partitioning != jobgraph.Forward || a.Environment != b.Environment {
				continue
			}
			if !needsDescendant(p.Graph, b, a) {
				t.Fatalf("%s\n%s could be fused away", p, d.ID)
			}
		}
	}
}

// needsDescendant reports whether s has a side input that comes from of or from
// what reads it.
func needsDescendant(g *jobgraph.Graph, s, of *jobgraph.Stage) bool {
	from := map[jobgraph.StageID]bool{of.ID: true}
	for _, v := range g.Stages {
		for _, d := range slices.Concat(v.Inputs, v.SideInputs) {
			from[v.ID] = from[v.ID] || from[g.Dataset(d).Producer]
		}
	}
	for _, d := range s.SideInputs {
		if from[g.Dataset(d).Producer] {
			return true
		}
	}
	return false
}
