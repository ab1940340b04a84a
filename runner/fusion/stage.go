package fusion

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"

	"trestle/runner/graph"
	"trestle/runner/jobgraph"
)

// A stage under construction. It only ever grows.
type stage struct {
	seq    int // order of making
	env    graph.EnvironmentID
	kind   jobgraph.RootKind
	by     *graph.Transform // Impulse, GroupByKey or Reshuffle done by the root; may be nil
	root   *value
	inputs []*dataset
	nodes  []*node // topological

	// upstream are the producers of inputs and side inputs, downstream the
	// stages that this one is upstream of, each as often as there are datasets.
	upstream, downstream []*stage
	level                int // greater than that of every upstream stage
	mark                 int // the last transform whose side inputs were found to come from here

	id jobgraph.StageID // set by emit
}

// A node is one transform in one stage.
type node struct {
	stage     *stage
	transform *graph.Transform
	inputs    []*value // several only for a flatten
	outputs   []*value // as transform.Outputs
	sides     []sideRead

	id string // set by emit
}

// A value is a collection, or a part of one, inside a stage.
type value struct {
	stage    *stage
	of       graph.CollectionID // whose coder, windowing and meaning it has
	by       *node              // nil for what comes from the root
	datasets []*dataset         // what is written of it; at most one of each partitioning

	id string // set by emit
}

// A dataset is a value written for others.
type dataset struct {
	value        *value
	partitioning jobgraph.Partitioning

	id        jobgraph.DatasetID // set by emit
	consumers []jobgraph.StageID
}

// A sideRead is one side input with the datasets that hold it.
type sideRead struct {
	graph.SideInput
	datasets []*dataset
}

// A shareKey says which stages may be the same: those that read one collection
// in one environment in the same way.
type shareKey struct {
	kind jobgraph.RootKind
	env  graph.EnvironmentID
	by   *graph.Transform
	of   graph.CollectionID
}

func (f *fuser) newStage(kind jobgraph.RootKind, env graph.EnvironmentID, by *graph.Transform, of graph.CollectionID, inputs []*dataset) *stage {
	s := &stage{seq: len(f.stages), env: env, kind: kind, by: by, inputs: inputs}
	s.root = &value{stage: s, of: of}
	s.reads(inputs)
	f.stages = append(f.stages, s)
	return s
}

// sharedStage is a stage of that key and inputs that the transform at hand may
// join; a new one if there is none. What has no environment nobody joins.
func (f *fuser) sharedStage(key shareKey, inputs []*dataset) *stage {
	for _, s := range f.shared[key] {
		if (s.env == "" || f.mayJoin(s)) && slices.Equal(s.inputs, inputs) {
			return s
		}
	}
	s := f.newStage(key.kind, key.env, key.by, key.of, inputs)
	f.shared[key] = append(f.shared[key], s)
	return s
}

// rootStage is a stage that begins with an Impulse, GroupByKey or Reshuffle. In
// no environment it is the one that only writes the output of that.
func (f *fuser) rootStage(by *graph.Transform, env graph.EnvironmentID) *stage {
	key := shareKey{by: by, env: env, of: by.Outputs[0]}
	var inputs []*dataset
	switch by.Kind {
	case graph.Impulse:
		key.kind = jobgraph.RootImpulse
	case graph.GroupByKey:
		key.kind = jobgraph.RootGroup
		inputs = f.datasets(by.Inputs[0], jobgraph.ByKey)
	default:
		key.kind = jobgraph.RootRead
		inputs = f.datasets(by.Inputs[0], jobgraph.Spread)
	}
	return f.sharedStage(key, inputs)
}

func (f *fuser) readStage(of graph.CollectionID, env graph.EnvironmentID, inputs []*dataset) *stage {
	return f.sharedStage(shareKey{kind: jobgraph.RootRead, env: env, of: of}, inputs)
}

// keyedStage is shared by the stateful transforms that read the same collection
// in the same environment: it is sorted by key once for all of them. A plain
// ParDo is kept out of it, for it would lose its pointwise edge.
func (f *fuser) keyedStage(of graph.CollectionID, t *graph.Transform) *stage {
	return f.sharedStage(shareKey{kind: jobgraph.RootKeyed, env: f.environment(t), of: of}, f.datasets(of, jobgraph.ByKey))
}

// add puts a transform into the stage.
func (s *stage) add(t *graph.Transform, inputs []*value, sides []sideRead) *node {
	n := &node{stage: s, transform: t, inputs: inputs, sides: sides}
	for _, c := range t.Outputs {
		n.outputs = append(n.outputs, &value{stage: s, of: c, by: n})
	}
	for _, r := range sides {
		s.reads(r.datasets)
	}
	s.nodes = append(s.nodes, n)
	return n
}

// flattened is the union of values of s, made by a Flatten inside the worker;
// t is the pipeline's Flatten that asks for it.
func (s *stage) flattened(t *graph.Transform, in []*value) *value {
	for _, n := range s.nodes {
		if n.transform == t && slices.Equal(n.inputs, in) {
			return n.outputs[0]
		}
	}
	return s.add(t, in, nil).outputs[0]
}

// write is the dataset of v with that partitioning.
func (v *value) write(p jobgraph.Partitioning) *dataset {
	for _, d := range v.datasets {
		if d.partitioning == p {
			return d
		}
	}
	d := &dataset{value: v, partitioning: p}
	v.datasets = append(v.datasets, d)
	return d
}

// reads makes the producers of ds upstream of s, and lifts s and what is
// downstream of it to their levels.
func (s *stage) reads(ds []*dataset) {
	for _, d := range ds {
		up := d.value.stage
		s.upstream = append(s.upstream, up)
		up.downstream = append(up.downstream, s)
		s.level = max(s.level, up.level+1)
	}
	for todo := []*stage{s}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, down := range at.downstream {
			if down.level <= at.level {
				down.level = at.level + 1
				todo = append(todo, down)
			}
		}
	}
}

// startJoining begins the search for stages that a transform with these side
// inputs may join.
func (f *fuser) startJoining(sides []sideRead) {
	f.epoch++
	f.search = f.search[:0]
	for _, r := range sides {
		for _, d := range r.datasets {
			f.found(d.value.stage)
		}
	}
}

func (f *fuser) found(s *stage) {
	if s.mark != f.epoch {
		s.mark = f.epoch
		heap.Push(&f.search, s)
	}
}

// mayJoin reports whether the graph of stages stays acyclic when the transform
// at hand joins s: its side inputs must not come from s, directly or by way of
// others. The search for where they come from goes no further than the level of
// s, for mostly it is above that of the side inputs. What joining changes isn't
// where they come from, so one search serves all stages that are asked for.
func (f *fuser) mayJoin(s *stage) bool {
	for len(f.search) > 0 && f.search[0].level > s.level {
		for _, up := range heap.Pop(&f.search).(*stage).upstream {
			f.found(up)
		}
	}
	return s.mark != f.epoch
}

// waitsElsewhere reports whether t needs its side inputs for other windows than
// those that v had at the root of its stage, where elements wait for them: they
// may have been put into others since, or be what a timer gave, which has not
// waited.
func (f *fuser) waitsElsewhere(t *graph.Transform, v *value) bool {
	if !f.g.Streaming || len(t.SideInputs) == 0 {
		return false
	}
	root := v.stage.root
	if v.stage.kind == jobgraph.RootKeyed || f.g.Collections[v.of].Windowing != f.g.Collections[root.of].Windowing {
		return true
	}
	for todo := []*value{v}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := at.by
		if n == nil {
			continue
		}
		if n.transform.Proto.GetSpec().GetUrn() == graph.URNWindowInto {
			return true
		}
		todo = append(todo, n.inputs...)
	}
	return false
}

// highestFirst is a heap of stages by level.
type highestFirst []*stage

func (h highestFirst) Len() int           { return len(h) }
func (h highestFirst) Less(i, j int) bool { return h[i].level > h[j].level }
func (h highestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *highestFirst) Push(s any)        { *h = append(*h, s.(*stage)) }
func (h *highestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// sideReads writes t's side inputs.
func (f *fuser) sideReads(t *graph.Transform) []sideRead {
	var reads []sideRead
	for _, in := range t.SideInputs {
		reads = append(reads, sideRead{in, f.datasets(in.Collection, jobgraph.Whole)})
	}
	return reads
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
