package fusion

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"trestle/internal/invariant"
	"trestle/runner/graph"
	"trestle/runner/jobgraph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// emit names all that was made, and writes it down as a plan.
func (f *fuser) emit() (*Plan, error) {
	f.stages = topological(f.stages)
	f.nameStages()
	p := &Plan{
		Graph:  &jobgraph.Graph{Streaming: f.g.Streaming},
		Stages: make(map[jobgraph.StageID]*Stage, len(f.stages)),
		Components: &pipepb.Components{
			Transforms:          map[string]*pipepb.PTransform{},
			Pcollections:        map[string]*pipepb.PCollection{},
			WindowingStrategies: f.comps.GetWindowingStrategies(),
			Coders:              f.comps.GetCoders(),
			Environments:        f.comps.GetEnvironments(),
		},
		Declared: map[string]string{},
	}
	for _, s := range f.stages {
		p.Graph.Stages = append(p.Graph.Stages, s.vertex())
		p.Stages[s.id] = s.plan()
		if err := f.emitProtos(s, p); err != nil {
			return nil, err
		}
	}
	for _, s := range f.stages {
		for _, v := range s.values() {
			for _, d := range v.datasets {
				p.Graph.Datasets = append(p.Graph.Datasets, &jobgraph.Dataset{
					ID:           d.id,
					Collection:   v.id,
					Producer:     s.id,
					Consumers:    d.consumers,
					Partitioning: d.partitioning,
				})
			}
		}
	}
	if f.g.Streaming {
		p.separate()
	}
	return p, nil
}

// nameStages gives every stage, node, value and dataset its id. A transform
// that stands in one stage only keeps its id and those of its outputs; copies
// have the stage's id added.
func (f *fuser) nameStages() {
	places := map[*graph.Transform]int{}
	for i, s := range f.stages {
		s.id = jobgraph.StageID("s" + strconv.Itoa(i+1))
		for _, n := range s.nodes {
			places[n.transform]++
		}
	}
	transforms, collections := taken(f.comps.GetTransforms()), taken(f.comps.GetPcollections())
	datasets := 0
	for _, s := range f.stages {
		s.root.id = string(s.root.of)
		for _, n := range s.nodes {
			n.id = string(n.transform.ID)
			if places[n.transform] > 1 {
				n.id = transforms.fresh(n.id + "@" + string(s.id))
			}
			for _, v := range n.outputs {
				v.id = string(v.of)
				if places[n.transform] > 1 {
					v.id = collections.fresh(v.id + "@" + string(s.id))
				}
			}
		}
		for _, v := range s.values() {
			for _, d := range v.datasets {
				datasets++
				d.id = jobgraph.DatasetID("d" + strconv.Itoa(datasets))
			}
		}
		for _, d := range append(slices.Clone(s.inputs), s.sideReads()...) {
			d.consumers = append(d.consumers, s.id)
		}
	}
}

// names are ids in use.
type names map[string]bool

func taken[V any](m map[string]V) names {
	n := make(names, len(m))
	for id := range m {
		n[id] = true
	}
	return n
}

// fresh is id, or id with a number when that is in use.
func (n names) fresh(id string) string {
	free := id
	for i := 2; n[free]; i++ {
		free = id + "." + strconv.Itoa(i)
	}
	n[free] = true
	return free
}

// values are the root's and the nodes', topological.
func (s *stage) values() []*value {
	vs := []*value{s.root}
	for _, n := range s.nodes {
		vs = append(vs, n.outputs...)
	}
	return vs
}

// sideReads are the datasets that s reads as side inputs, each once.
func (s *stage) sideReads() []*dataset {
	var ds []*dataset
	seen := map[*dataset]bool{}
	for _, n := range s.nodes {
		for _, r := range n.sides {
			for _, d := range r.datasets {
				if !seen[d] {
					seen[d] = true
					ds = append(ds, d)
				}
			}
		}
	}
	return ds
}

func ids(ds []*dataset) []jobgraph.DatasetID {
	var ids []jobgraph.DatasetID
	for _, d := range ds {
		ids = append(ids, d.id)
	}
	return ids
}

// vertex is the stage as scheduling sees it.
func (s *stage) vertex() *jobgraph.Stage {
	v := &jobgraph.Stage{
		ID:          s.id,
		Name:        s.name(),
		Environment: string(s.env),
		Root:        s.kind,
		Inputs:      ids(s.inputs),
		SideInputs:  ids(s.sideReads()),
	}
	for _, out := range s.values() {
		v.Outputs = append(v.Outputs, ids(out.datasets)...)
	}
	if s.kind == jobgraph.RootImpulse {
		v.Bind = graph.BoundOf(s.by.Proto).GetUrn()
	}
	return v
}

// plan is the stage as its tasks see it.
func (s *stage) plan() *Stage {
	p := &Stage{ID: s.id, Environment: string(s.env), Collection: s.root.id}
	origin := func(id string, t *graph.Transform) {
		if t.Origin != "" && string(t.Origin) != id {
			if p.Origins == nil {
				p.Origins = map[string]string{}
			}
			p.Origins[id] = string(t.Origin)
		}
	}
	if s.by != nil {
		p.RootTransform = string(s.by.ID)
		origin(p.RootTransform, s.by)
	}
	for _, n := range s.nodes {
		p.Transforms = append(p.Transforms, n.id)
		origin(n.id, n.transform)
		if n.transform.Stateful {
			p.KeyedTransforms = append(p.KeyedTransforms, n.id)
		}
		for _, r := range n.sides {
			p.SideInputs = append(p.SideInputs, SideInput{n.id, r.Tag, string(r.Collection), r.Access, ids(r.datasets)})
		}
	}
	for _, v := range s.values() {
		if len(v.datasets) > 0 {
			p.Outputs = append(p.Outputs, Output{v.id, ids(v.datasets)})
		}
	}
	return p
}

// emitProtos adds what s names to the plan's components.
func (f *fuser) emitProtos(s *stage, p *Plan) error {
	collection := func(id string, of graph.CollectionID) error {
		c := f.comps.GetPcollections()[string(of)]
		if c == nil {
			return fmt.Errorf("fuse: the components have no collection %s", of)
		}
		p.Components.Pcollections[id] = c
		if d := f.g.Collections[of].Declared; d != "" {
			p.Declared[id] = d
		}
		return nil
	}
	for _, v := range s.values() {
		if err := collection(v.id, v.of); err != nil {
			return err
		}
	}
	if s.by != nil {
		p.Components.Transforms[string(s.by.ID)] = f.proto(s.by)
		for _, c := range s.by.Inputs {
			if err := collection(string(c), c); err != nil {
				return err
			}
		}
	}
	for _, n := range s.nodes {
		p.Components.Transforms[n.id] = f.nodeProto(n)
		for _, r := range n.sides {
			if err := collection(string(r.Collection), r.Collection); err != nil {
				return err
			}
		}
	}
	return nil
}

// proto is t as the components have it.
func (f *fuser) proto(t *graph.Transform) *pipepb.PTransform {
	if p := f.comps.GetTransforms()[string(t.ID)]; p != nil {
		return p
	}
	return t.Proto
}

// nodeProto is the node's transform with the collections of its stage.
func (f *fuser) nodeProto(n *node) *pipepb.PTransform {
	t := f.proto(n.transform)
	inputs, outputs := maps.Clone(t.GetInputs()), make(map[string]string, len(t.GetOutputs()))
	env := t.GetEnvironmentId()
	if n.transform.Kind == graph.Flatten {
		env = string(n.stage.env)
		inputs = make(map[string]string, len(n.inputs))
		for i, v := range n.inputs {
			inputs["i"+strconv.Itoa(i)] = v.id // the tags that the Go SDK orders by
		}
	} else {
		inputs[mainTag(n.transform, t)] = n.inputs[0].id
	}
	renamed := make(map[string]string, len(n.outputs))
	for _, v := range n.outputs {
		renamed[string(v.of)] = v.id
	}
	for tag, c := range t.GetOutputs() {
		outputs[tag] = renamed[c]
	}
	if maps.Equal(inputs, t.GetInputs()) && maps.Equal(outputs, t.GetOutputs()) && env == t.GetEnvironmentId() {
		return t
	}
	return &pipepb.PTransform{
		UniqueName:    t.GetUniqueName(),
		Spec:          t.GetSpec(),
		Inputs:        inputs,
		Outputs:       outputs,
		DisplayData:   t.GetDisplayData(),
		EnvironmentId: env,
		Annotations:   t.GetAnnotations(),
	}
}

// mainTag is the tag of a ParDo's main input.
func mainTag(t *graph.Transform, p *pipepb.PTransform) string {
	side := map[string]bool{}
	for _, s := range t.SideInputs {
		side[s.Tag] = true
	}
	for _, tag := range sortedKeys(p.GetInputs()) {
		if !side[tag] && p.GetInputs()[tag] == string(t.Inputs[0]) {
			return tag
		}
	}
	invariant.Check(false, "transform %s has no tag for its input %s", t.ID, t.Inputs[0])
	return ""
}

// topological orders stages so that producers come first; ties in the order of
// making, which follows the pipeline's.
func topological(stages []*stage) []*stage {
	waits := make([]int, len(stages))
	var ready bySeq
	for _, s := range stages {
		waits[s.seq] = len(s.upstream)
		if waits[s.seq] == 0 {
			ready = append(ready, s) // in order of seq, so a heap
		}
	}
	ordered := make([]*stage, 0, len(stages))
	for len(ready) > 0 {
		s := heap.Pop(&ready).(*stage)
		ordered = append(ordered, s)
		for _, d := range s.downstream {
			if waits[d.seq]--; waits[d.seq] == 0 {
				heap.Push(&ready, d)
			}
		}
	}
	invariant.Check(len(ordered) == len(stages), "%d of %d stages are on a cycle", len(stages)-len(ordered), len(stages))
	return ordered
}

type bySeq []*stage

func (h bySeq) Len() int           { return len(h) }
func (h bySeq) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h bySeq) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *bySeq) Push(s any)        { *h = append(*h, s.(*stage)) }
func (h *bySeq) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
