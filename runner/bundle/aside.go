package bundle

import (
	"context"
	"fmt"
	"maps"

	"trestle/coders"
	"trestle/fnapi"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/metrics"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	urnProcessRestrictions = "beam:transform:sdf_process_sized_element_and_restrictions:v1"
	urnTruncate            = "beam:transform:sdf_truncate_sized_restrictions:v1"
	urnMergeWindows        = "beam:transform:merge_windows:v1"
	urnMapWindows          = "beam:transform:map_windows:v1"

	// Ids that asides make up; those of the pipeline can't meet them.
	asidePrefix = "trestle:aside:"
)

// An Aside is one transform that the tasks of a stage run between their
// bundles, to ask the SDK something: what a restriction becomes when it is
// truncated, which windows merge. Its output is in the Result of its bundles
// and goes nowhere else.
type Aside struct {
	Program *Program
	In, Out *coders.Windowed
}

// Runner is what runs the aside for a task whose bundles are run by r. Its
// bundles read the side inputs of the stage, and count in no metric.
func (a *Aside) Runner(r *Runner, acquire func(ctx context.Context, environment string) (Lease, error)) *Runner {
	return &Runner{
		Program:     a.Program,
		Acquire:     func(ctx context.Context) (Lease, error) { return acquire(ctx, a.Program.Stage.Environment) },
		NewState:    r.NewState,
		CacheTokens: func(*fnapi.Worker) []*fnpb.ProcessBundleRequest_CacheToken { return nil },
		Committed:   func(*metrics.Set) {},
		Loose:       true,
		UserTries:   r.UserTries,
		WorkerTries: r.WorkerTries,
	}
}

// asideParts say what an aside's descriptor holds.
type asideParts struct {
	name        string // of the stage's asides
	environment string
	id          string // of the transform
	transform   *pipepb.PTransform
	in, out     string // collections
	collections map[string]*pipepb.PCollection
	windowings  map[string]*pipepb.WindowingStrategy
}

func (c *compiler) aside(a asideParts) (*Aside, error) {
	own := *c // with the collections of the aside, and their windowing
	own.comps = &pipepb.Components{WindowingStrategies: a.windowings, Pcollections: a.collections}
	p := &Program{
		Stage: &fusion.Stage{
			ID: jobgraph.StageID(string(c.p.Stage.ID) + "/" + a.name), Environment: a.environment, Collection: a.in,
			Transforms: []string{a.id}, Origins: c.p.Stage.Origins,
		},
		Node:      &jobgraph.Stage{ID: c.p.Node.ID, Name: c.p.Node.Name},
		SideInput: map[SideKey]*fusion.SideInput{},
	}
	var err error
	if p.Input, err = own.windowed(a.in); err != nil {
		return nil, err
	}
	in, err := own.windowedID(a.in, false)
	if err != nil {
		return nil, err
	}
	sink := Sink{ID: sinkPrefix + "0", Output: fusion.Output{Collection: a.out}, Keep: true}
	if sink.Windowed, err = own.windowed(a.out); err != nil {
		return nil, err
	}
	out, err := own.windowedID(a.out, false)
	if err != nil {
		return nil, err
	}
	p.Sinks, p.sinkIDs = []Sink{sink}, []string{sink.ID}
	source, end := portTransform(urnSource, in), portTransform(urnSink, out)
	source.Outputs, end.Inputs = map[string]string{"out": a.in}, map[string]string{"in": a.out}
	p.template = &fnpb.ProcessBundleDescriptor{
		Transforms:          map[string]*pipepb.PTransform{sourceID: source, a.id: a.transform, sink.ID: end},
		Pcollections:        a.collections,
		WindowingStrategies: a.windowings,
		Environments:        c.comps.GetEnvironments(),
		Coders:              c.coders,
	}
	return &Aside{Program: p, In: p.Input, Out: sink.Windowed}, nil
}

// truncation is the aside by which the restrictions of a stage are made as
// short as their DoFn wants them when its job is to come to its end; nil for
// stages that process none.
func (c *compiler) truncation() (*Aside, error) {
	for _, id := range c.p.Stage.Transforms {
		t := c.comps.GetTransforms()[id]
		if t.GetSpec().GetUrn() != urnProcessRestrictions {
			continue
		}
		in, out := c.p.Stage.Collection, asidePrefix+"truncated"
		t = proto.CloneOf(t)
		t.Spec.Urn, t.Outputs, t.Subtransforms = urnTruncate, map[string]string{"out": out}, nil
		pcs := map[string]*pipepb.PCollection{out: c.comps.GetPcollections()[in]}
		for _, input := range t.GetInputs() {
			pcs[input] = c.comps.GetPcollections()[input]
		}
		return c.aside(asideParts{
			name: "truncate", environment: c.p.Stage.Environment, id: id, transform: t,
			in: in, out: out, collections: pcs, windowings: c.comps.GetWindowingStrategies(),
		})
	}
	return nil, nil
}

// windowsAside is the aside that asks the SDK of a window function about
// windows: elements are kv<bytes, of>, in the global window.
func (c *compiler) windowsAside(name, urn, environment string, fn *pipepb.FunctionSpec, of, gives string) (*Aside, error) {
	if c.comps.GetEnvironments()[environment] == nil {
		return nil, fmt.Errorf("window function %q is in environment %q, which the plan doesn't have", fn.GetUrn(), environment)
	}
	global := asidePrefix + "global"
	windowings := maps.Clone(c.comps.GetWindowingStrategies())
	windowings[global] = &pipepb.WindowingStrategy{
		WindowFn:        &pipepb.FunctionSpec{Urn: "beam:window_fn:global_windows:v1"},
		MergeStatus:     pipepb.MergeStatus_NON_MERGING,
		WindowCoderId:   c.coder(coders.URNGlobalWindow),
		Trigger:         &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
		OutputTime:      pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior: pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:  pipepb.OnTimeBehavior_FIRE_ALWAYS,
		EnvironmentId:   environment,

		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
	}
	in, out := asidePrefix+name+".in", asidePrefix+name+".out"
	nonce := c.coder(coders.URNBytes)
	return c.aside(asideParts{
		name: name, environment: environment, id: asidePrefix + name,
		transform: &pipepb.PTransform{
			UniqueName:    asidePrefix + name,
			Spec:          &pipepb.FunctionSpec{Urn: urn, Payload: mustMarshal(fn)},
			Inputs:        map[string]string{"in": in},
			Outputs:       map[string]string{"out": out},
			EnvironmentId: environment,
		},
		in: in, out: out, windowings: windowings,
		collections: map[string]*pipepb.PCollection{
			in:  {UniqueName: in, CoderId: c.coder(coders.URNKV, nonce, of), WindowingStrategyId: global, IsBounded: pipepb.IsBounded_BOUNDED},
			out: {UniqueName: out, CoderId: c.coder(coders.URNKV, nonce, gives), WindowingStrategyId: global, IsBounded: pipepb.IsBounded_BOUNDED},
		},
	})
}

// merging is the aside that merges windows:
//
//	kv<nonce, iterable<W>> → kv<nonce, kv<iterable<W>, iterable<kv<W, iterable<W>>>>>
//
// of which the first are the windows that stay as they are, and the others
// those that were made, each of some.
func (c *compiler) merging(ws *pipepb.WindowingStrategy) (*Aside, error) {
	w := ws.GetWindowCoderId()
	some := c.coder(coders.URNIterable, w)
	gives := c.coder(coders.URNKV, some, c.coder(coders.URNIterable, c.coder(coders.URNKV, w, some)))
	return c.windowsAside("merge", urnMergeWindows, c.environment(ws), ws.GetWindowFn(), some, gives)
}

// environment is who knows the window function.
func (c *compiler) environment(ws *pipepb.WindowingStrategy) string {
	if e := ws.GetEnvironmentId(); e != "" {
		return e
	}
	return c.p.Stage.Environment
}

// coder adds the coder that a standard URN makes of its parts.
func (c *compiler) coder(urn string, parts ...string) string {
	id := asidePrefix + urn
	for _, p := range parts {
		id += "," + p
	}
	if len(parts) > 0 {
		id += ";"
	}
	c.coders[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: parts}
	return id
}

// mapping is the aside that tells which window of a side input each window of
// the main input looks at: kv<nonce, W> → kv<nonce, of the side input>.
func (c *compiler) mapping(side *fusion.SideInput, ws *pipepb.WindowingStrategy) (*Aside, error) {
	t := c.comps.GetTransforms()[side.Transform]
	var pay pipepb.ParDoPayload
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &pay); err != nil {
		return nil, fmt.Errorf("transform %q: payload: %w", t.GetUniqueName(), err)
	}
	fn := pay.GetSideInputs()[side.Tag].GetWindowMappingFn()
	main := c.strategy(c.p.Stage.Collection).GetWindowCoderId()
	return c.windowsAside("map "+side.Transform+" "+side.Tag, urnMapWindows, c.p.Stage.Environment, fn, main, ws.GetWindowCoderId())
}
