// Package fusion cuts a pipeline graph into stages.
//
// A stage is a root on the reading side, and the transforms that one worker
// runs behind it as one bundle, handing elements from one to the next in
// memory. A transform shares its producer's stage when nothing forces the
// elements between them to be kept: same environment, no grouping or spreading
// anew between them, no state of its own, and no side input that must be
// complete first and depends on the same stage. In streaming, elements wait at
// the root of a stage for the side inputs of their windows; so what has side
// inputs shares a stage only where those windows, and no timers, lead to it. What can't share the
// producer's stage reads datasets that it writes; those of one environment
// that read the same datasets share a stage, too.
//
// GroupByKey, Reshuffle and Impulse are work of the reading side: each is done
// at the root of every stage that consumes it, one for each environment, and
// has a stage of its own only when its output goes straight into a dataset.
//
// Flattens disappear. Their consumers are copied into each stage that produces
// a part of the flatten's output, or read a dataset from each. Only where two
// parts are in one stage does a Flatten remain, inside the worker; so a
// transform is never twice in one stage, however often the pipeline branches
// and joins.
//
// Fuse is a function of its input. Equal graphs give equal plans with equal
// names, on any machine. The fusing is greedy in the graph's order, and no edge
// is cut that could be fused without making the graph of stages cyclic, as long
// as the plan has fewer copies of transforms than maxCopies.
//
// Which edges are pipelined, where stages run and when they start are not
// decided here; see packages region and schedule.
package fusion

import (
	"errors"
	"fmt"
	"slices"

	"trestle/runner/graph"
	"trestle/runner/jobgraph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Bounds on what flattens can make of a pipeline: copies of transforms, and
// parts that all collections together consist of. Beyond the first, consumers
// of flattens read datasets; a pipeline beyond the second is refused.
var (
	maxCopies = 1 << 14
	maxParts  = 1 << 22
)

// Fuse cuts g into stages. comps are the components that describe g to workers,
// as g.Components gives them: collections have wire coders, the same for all
// inputs of a transform that reads several. Neither is changed, and the plan
// shares with them what it has no need to change. The error is a
// *graph.PipelineError or says what is wrong with g itself.
func Fuse(g *graph.Graph, comps *pipepb.Components) (*Plan, error) {
	f, err := newFuser(g, comps)
	if err != nil {
		return nil, err
	}
	for _, t := range g.Transforms {
		if !f.live[t.ID] {
			continue
		}
		if err := f.visit(t); err != nil {
			return nil, err
		}
	}
	return f.emit()
}

// A fuser grows the stages, one transform after another in topological order.
type fuser struct {
	g     *graph.Graph
	comps *pipepb.Components

	producer map[graph.CollectionID]*graph.Transform
	readers  map[graph.CollectionID][]*graph.Transform
	env      map[graph.EnvironmentID]graph.EnvironmentID // to the first of equal content
	live     map[graph.TransformID]bool

	parts  map[graph.CollectionID][]part   // of each collection visited
	values map[graph.CollectionID][]*value // what holds it in stages, see valuesOf
	coders map[[2]string]bool              // see sameCoder
	stages []*stage
	shared map[shareKey][]*stage
	epoch  int          // counts transforms, for stage.mark
	search highestFirst // see mayJoin
	copies int          // transforms that stand in more than one stage: all but one of each
	total  int          // parts
}

// A part of a collection is where some of its elements come from: a value in a
// stage, or the output of an Impulse, GroupByKey or Reshuffle, which is made
// anew in the stage of each consumer.
type part struct {
	value *value
	root  *graph.Transform // when value is nil
}

func newFuser(g *graph.Graph, comps *pipepb.Components) (*fuser, error) {
	f := &fuser{
		g:        g,
		comps:    comps,
		producer: make(map[graph.CollectionID]*graph.Transform, len(g.Collections)),
		readers:  make(map[graph.CollectionID][]*graph.Transform, len(g.Collections)),
		parts:    make(map[graph.CollectionID][]part, len(g.Collections)),
		values:   map[graph.CollectionID][]*value{},
		coders:   map[[2]string]bool{},
		shared:   map[shareKey][]*stage{},
	}
	var errs []error
	for _, t := range g.Transforms {
		errs = append(errs, f.check(t))
		for _, c := range t.Outputs {
			f.producer[c] = t
		}
		for _, c := range t.Inputs {
			f.readers[c] = append(f.readers[c], t)
		}
		for _, s := range t.SideInputs {
			f.readers[s.Collection] = append(f.readers[s.Collection], t)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f.live = f.findLive()
	var err error
	f.env, err = sameEnvironments(g)
	return f, err
}

// check refuses what a rewrite or the graph's own check should have: it would
// otherwise be a wrong result or a panic further on.
func (f *fuser) check(t *graph.Transform) error {
	for _, c := range t.Inputs {
		if f.producer[c] == nil {
			return fmt.Errorf("fuse: transform %q (%s) stands before the producer of its input %s", t.Name, t.ID, c)
		}
	}
	for _, s := range t.SideInputs {
		if f.producer[s.Collection] == nil {
			return fmt.Errorf("fuse: transform %q (%s) stands before the producer of its side input %s", t.Name, t.ID, s.Collection)
		}
	}
	for _, c := range t.Outputs {
		if f.g.Collections[c] == nil {
			return fmt.Errorf("fuse: transform %q (%s) has an output %s that the graph doesn't know", t.Name, t.ID, c)
		}
	}
	inputs, outputs := len(t.Inputs) == 1, true
	switch t.Kind {
	case graph.Impulse, graph.TestStream:
		inputs, outputs = len(t.Inputs) == 0, len(t.Outputs) == 1
	case graph.Flatten:
		inputs, outputs = true, len(t.Outputs) == 1
	case graph.GroupByKey, graph.Reshuffle:
		outputs = len(t.Outputs) == 1
	case graph.ParDo, graph.Restrictions:
		if t.Environment == "" {
			return fmt.Errorf("fuse: transform %q (%s) has no environment", t.Name, t.ID)
		}
	default:
		return fmt.Errorf("fuse: transform %q (%s) should have been rewritten (kind %d)", t.Name, t.ID, t.Kind)
	}
	if !inputs || !outputs {
		return fmt.Errorf("fuse: transform %q (%s) can't have %d main inputs and %d outputs", t.Name, t.ID, len(t.Inputs), len(t.Outputs))
	}
	return nil
}

// findLive tells which transforms must run: those of the user's code, and what
// they need.
func (f *fuser) findLive() map[graph.TransformID]bool {
	live := make(map[graph.TransformID]bool, len(f.g.Transforms))
	for _, t := range slices.Backward(f.g.Transforms) {
		live[t.ID] = t.Kind == graph.ParDo || t.Kind == graph.Restrictions
		for _, c := range t.Outputs {
			for _, r := range f.readers[c] {
				live[t.ID] = live[t.ID] || live[r.ID]
			}
		}
	}
	return live
}

// sameEnvironments maps each environment to the first one of the same content:
// SDKs may give each transform an environment of its own.
func sameEnvironments(g *graph.Graph) (map[graph.EnvironmentID]graph.EnvironmentID, error) {
	same := make(map[graph.EnvironmentID]graph.EnvironmentID, len(g.Environments))
	first := map[string]graph.EnvironmentID{}
	for _, id := range sortedKeys(g.Environments) {
		content, err := proto.MarshalOptions{Deterministic: true}.Marshal(g.Environments[id])
		if err != nil {
			return nil, fmt.Errorf("fuse: environment %s: %w", id, err)
		}
		if _, ok := first[string(content)]; !ok {
			first[string(content)] = id
		}
		same[id] = first[string(content)]
	}
	return same, nil
}

// environment is where t runs: the same id for environments of equal content.
func (f *fuser) environment(t *graph.Transform) graph.EnvironmentID {
	if id, ok := f.env[t.Environment]; ok {
		return id
	}
	return t.Environment
}

func (f *fuser) visit(t *graph.Transform) error {
	switch t.Kind {
	case graph.Impulse, graph.GroupByKey, graph.Reshuffle:
		return f.addPart(t.Outputs[0], part{root: t})
	case graph.TestStream:
		// Played once, whoever listens.
		s := f.newStage(jobgraph.RootTestStream, "", t, t.Outputs[0], nil)
		return f.addPart(t.Outputs[0], part{value: s.root})
	case graph.Flatten:
		return f.flatten(t)
	}
	sides := f.sideReads(t)
	f.startJoining(sides)
	switch in := t.Inputs[0]; {
	case t.Kind == graph.Restrictions:
		// Never shared: what a split gives back is for one transform alone.
		inputs := f.datasets(in, jobgraph.Spread)
		return f.join(f.newStage(jobgraph.RootRestrictions, f.environment(t), nil, in, inputs), t, nil, sides)
	case t.Stateful:
		return f.join(f.keyedStage(in, t), t, nil, sides)
	default:
		return f.fuse(t, sides)
	}
}

// join puts t behind v, or behind the root of s if v is nil, and makes its
// outputs known.
func (f *fuser) join(s *stage, t *graph.Transform, v *value, sides []sideRead) error {
	if v == nil {
		v = s.root
	}
	n := s.add(t, []*value{v}, sides)
	for _, out := range n.outputs {
		if err := f.addPart(out.of, part{value: out}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fuser) addPart(c graph.CollectionID, p part) error {
	f.parts[c] = append(f.parts[c], p)
	f.total++
	if f.total > maxParts {
		t := f.producer[c]
		return &graph.PipelineError{
			Where: fmt.Sprintf("transform %q (%s)", t.Name, t.ID),
			What:  "the flattens up to here join too many branches; join fewer, or put a Reshuffle behind some of them",
		}
	}
	return nil
}

// fuse puts a plain ParDo into the stage of each part of its input if it may
// stand there. One more stage reads the other parts.
func (f *fuser) fuse(t *graph.Transform, sides []sideRead) error {
	in, env := t.Inputs[0], f.environment(t)
	parts := f.parts[in]
	if f.copies+len(parts)-1 > maxCopies {
		return f.join(f.readStage(in, env, f.datasets(in, jobgraph.Forward)), t, nil, sides)
	}
	var homes []*stage // distinct, in order of parts
	inside := map[*stage][]*value{}
	var rest []*value
	for _, p := range parts {
		v := p.value
		if v == nil {
			v = f.rootStage(p.root, env).root
		} else if v.stage.env != env || !f.mayJoin(v.stage) || f.waitsElsewhere(t, v) {
			rest = append(rest, v)
			continue
		}
		if inside[v.stage] == nil {
			homes = append(homes, v.stage)
		}
		inside[v.stage] = append(inside[v.stage], v)
	}
	for _, s := range homes {
		v := inside[s][0]
		if len(inside[s]) > 1 {
			v = s.flattened(f.producer[in], inside[s])
		}
		if err := f.join(s, t, v, sides); err != nil {
			return err
		}
	}
	f.copies += max(0, len(homes)-1)
	if len(rest) == 0 && len(homes) > 0 {
		return nil
	}
	if len(homes) > 0 {
		f.copies++
	}
	return f.join(f.readStage(in, env, write(rest, jobgraph.Forward)), t, nil, sides)
}
