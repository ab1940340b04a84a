package bundle

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"trestle/coders"
	"trestle/runner/fusion"
	"trestle/runner/group"
	"trestle/runner/jobgraph"
	"trestle/runner/window"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	urnSource       = "beam:runner:source:v1"
	urnSink         = "beam:runner:sink:v1"
	urnEmbedRequest = "beam:protocol:control_request_elements_embedding:v1"
	urnMultiCore    = "beam:protocol:multi_core_bundle_processing:v1"
	// versionGo begins a capability of Go's SDK.
	versionGo = "beam:version:sdk_base:go"

	// sourceID is the id of a stage's data source in its descriptor. Ids of the
	// pipeline can't meet it: they are not prefixed so.
	sourceID   = "trestle:source"
	sinkPrefix = "trestle:sink:"
)

// A Program is one stage of a plan as workers run it: made once per task
// manager, immutable, shared by all bundles of the stage.
type Program struct {
	Stage *fusion.Stage
	Node  *jobgraph.Stage

	Input     *coders.Windowed            // of the root's collection, as the worker reads it
	Feed      map[string]*coders.Windowed // by collection: how datasets' bytes are cut
	Sinks     []Sink
	SideInput map[SideKey]*fusion.SideInput
	Timers    [][2]string         // transform and family
	Families  []Family            // the same, with what cuts them
	States    map[string][]string // ids of user state by transform
	Large     bool                // the SDK reads state-backed iterables
	Embed     bool                // the SDK reads elements inside a ProcessBundleRequest
	Sorted    bool                // a key's elements must come in the order of their time
	// OneMark says that the SDK waits for one last mark of each transform with
	// timers, and not for one of each family: Go's counts them, and waits for ever
	// for a number that it has passed.
	OneMark bool
	// OneToken says that the SDK knows one cache token of a side input at a time,
	// whichever bundle reads it, as Go's does.
	OneToken bool
	// Merging and Timestamp are of the windowing in which a RootGroup groups.
	Merging   bool
	Timestamp group.Combiner
	// Merge is set instead of Merging where windows merge by their SDK's rule.
	Merge *Aside

	// Stream is set in a streaming plan.
	Stream *Stream

	multiCore bool // the SDK says that one worker uses all cores
	datasets  map[jobgraph.DatasetID]*jobgraph.Dataset
	sinkIDs   []string
	template  *fnpb.ProcessBundleDescriptor
	shortIDs  sync.Map // worker id → *metrics.Names; as many as the job has workers
}

// A Sink is one collection that leaves the worker.
type Sink struct {
	ID       string // transform id in the descriptor
	Output   fusion.Output
	Windowed *coders.Windowed
	Keep     bool // its elements are part of the bundle's Result
}

// A SideKey names a side input as state requests do.
type SideKey struct{ Transform, Tag string }

// Compile makes the program of one stage.
func Compile(plan *fusion.Plan, id jobgraph.StageID) (*Program, error) {
	st, node := plan.Stages[id], plan.Graph.Stage(id)
	if st == nil || node == nil {
		return nil, fmt.Errorf("plan has no stage %s", id)
	}
	p := &Program{
		Stage: st, Node: node,
		Feed:      map[string]*coders.Windowed{},
		SideInput: map[SideKey]*fusion.SideInput{},
		States:    map[string][]string{},
		datasets:  map[jobgraph.DatasetID]*jobgraph.Dataset{},
	}
	for _, ds := range plan.Graph.Datasets {
		p.datasets[ds.ID] = ds
	}
	c := &compiler{p: p, comps: plan.Components, coders: map[string]*pipepb.Coder{}}
	maps.Copy(c.coders, plan.Components.GetCoders())
	if err := c.compile(plan); err != nil {
		return nil, fmt.Errorf("compile stage %s (%s): %w", id, node.Name, err)
	}
	return p, nil
}

// Descriptor is the stage's ProcessBundleDescriptor under the given id, for
// bundles whose data goes over dataURL.
func (p *Program) Descriptor(id, dataURL, stateURL string) *fnpb.ProcessBundleDescriptor {
	d := proto.Clone(p.template).(*fnpb.ProcessBundleDescriptor)
	d.Id = id
	d.StateApiServiceDescriptor = &pipepb.ApiServiceDescriptor{Url: stateURL}
	if len(p.Timers) > 0 {
		d.TimerApiServiceDescriptor = &pipepb.ApiServiceDescriptor{Url: dataURL}
	}
	for tid, t := range d.Transforms {
		if tid != sourceID && !slices.Contains(p.sinkIDs, tid) {
			continue
		}
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(t.Spec.Payload, &port); err != nil {
			panic(err) // we marshalled it
		}
		port.ApiServiceDescriptor = &pipepb.ApiServiceDescriptor{Url: dataURL}
		t.Spec.Payload = mustMarshal(&port)
	}
	return d
}

// marks are the timer families that get last marks at the end of a bundle's
// input, and those that are only named, as the worker ends what it was told of.
// (Families of a transform stand together.)
func (p *Program) marks() (last, named [][2]string) {
	if !p.OneMark {
		return p.Timers, nil
	}
	for i, t := range p.Timers {
		if i > 0 && p.Timers[i-1][0] == t[0] {
			named = append(named, t)
		} else {
			last = append(last, t)
		}
	}
	return last, named
}

// Dataset returns the dataset of the plan with that id, or nil.
func (p *Program) Dataset(id jobgraph.DatasetID) *jobgraph.Dataset { return p.datasets[id] }

// HasWorker reports whether the stage needs a worker; one of root and outputs
// alone is done by the runner.
func (p *Program) HasWorker() bool { return len(p.Stage.Transforms) > 0 }

// compiler holds what compile needs while it runs.
type compiler struct {
	p      *Program
	comps  *pipepb.Components
	coders map[string]*pipepb.Coder
	table  *coders.Table
}

func (c *compiler) compile(plan *fusion.Plan) error {
	env := c.comps.GetEnvironments()[c.p.Stage.Environment]
	c.p.Large = slices.Contains(env.GetCapabilities(), coders.URNStateBackedIterable)
	c.p.Embed = slices.Contains(env.GetCapabilities(), urnEmbedRequest)
	c.p.multiCore = slices.Contains(env.GetCapabilities(), urnMultiCore)
	c.p.OneMark = slices.ContainsFunc(env.GetCapabilities(), func(has string) bool { return strings.HasPrefix(has, versionGo) })
	c.p.OneToken = c.p.OneMark

	input, err := c.windowedID(c.p.Stage.Collection, c.p.Node.Root == jobgraph.RootGroup && c.p.Large)
	if err != nil {
		return err
	}
	c.table = coders.NewTable(c.coders)
	if c.p.Input, err = c.windowed(c.p.Stage.Collection); err != nil {
		return err
	}
	if err := c.feeds(plan); err != nil {
		return err
	}
	d := &fnpb.ProcessBundleDescriptor{
		Transforms:          map[string]*pipepb.PTransform{},
		Pcollections:        map[string]*pipepb.PCollection{},
		WindowingStrategies: c.comps.GetWindowingStrategies(),
		Environments:        c.comps.GetEnvironments(),
		Coders:              c.coders,
	}
	d.Transforms[sourceID] = portTransform(urnSource, input)
	d.Transforms[sourceID].Outputs = map[string]string{"out": c.p.Stage.Collection}
	if err := c.transforms(d); err != nil {
		return err
	}
	if err := c.sinks(d); err != nil {
		return err
	}
	c.collections(d, plan.Declared)
	c.p.template = d
	return nil
}

// feeds finds how the bytes of every dataset that the stage reads are cut.
func (c *compiler) feeds(plan *fusion.Plan) error {
	ids := slices.Concat(c.p.Node.Inputs, c.p.Node.SideInputs)
	for _, id := range ids {
		ds := plan.Graph.Dataset(id)
		if ds == nil {
			return fmt.Errorf("plan has no dataset %s", id)
		}
		w, err := c.windowed(ds.Collection)
		if err != nil {
			return err
		}
		c.p.Feed[ds.Collection] = w
	}
	if err := c.windowing(); err != nil {
		return err
	}
	if plan.Graph.Streaming {
		if err := c.stream(plan); err != nil {
			return err
		}
	}
	for i := range c.p.Stage.SideInputs {
		s := &c.p.Stage.SideInputs[i]
		if c.p.Feed[s.Collection] == nil { // nothing feeds it
			w, err := c.windowed(s.Collection)
			if err != nil {
				return err
			}
			c.p.Feed[s.Collection] = w
		}
		c.p.SideInput[SideKey{s.Transform, s.Tag}] = s
	}
	return nil
}

// windowing notes how the collection that the root groups is windowed.
func (c *compiler) windowing() error {
	root := c.comps.GetTransforms()[c.p.Stage.RootTransform]
	var in string
	for _, id := range root.GetInputs() { // one, if it groups at all
		in = id
	}
	pc := c.comps.GetPcollections()[in]
	ws := c.comps.GetWindowingStrategies()[pc.GetWindowingStrategyId()]
	fn, err := window.FnOf(ws)
	if err != nil {
		return err
	}
	c.p.Merging = fn.Merging == window.MergeOverlap
	if fn.Merging == window.MergeByTheirFn && c.p.Node.Root == jobgraph.RootGroup {
		if c.p.Merge, err = c.merging(ws); err != nil {
			return err
		}
	}
	switch ws.GetOutputTime() {
	case pipepb.OutputTime_EARLIEST_IN_PANE:
		c.p.Timestamp = group.Earliest
	case pipepb.OutputTime_LATEST_IN_PANE:
		c.p.Timestamp = group.Latest
	}
	return nil
}

func (c *compiler) transforms(d *fnpb.ProcessBundleDescriptor) error {
	for _, tid := range c.p.Stage.Transforms {
		t := c.comps.GetTransforms()[tid]
		if t == nil {
			return fmt.Errorf("plan has no transform %q", tid)
		}
		t = proto.Clone(t).(*pipepb.PTransform)
		t.Subtransforms = nil
		d.Transforms[tid] = t
		if slices.Contains(c.p.Stage.KeyedTransforms, tid) {
			if err := c.stateful(tid, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateful notes what state a transform declares, and its timer families: the
// bundle isn't complete before each of them has sent its last mark.
func (c *compiler) stateful(tid string, t *pipepb.PTransform) error {
	var pd pipepb.ParDoPayload
	if err := proto.Unmarshal(t.GetSpec().GetPayload(), &pd); err != nil {
		return fmt.Errorf("transform %q: payload: %w", t.GetUniqueName(), err)
	}
	c.p.Sorted = c.p.Sorted || pd.GetRequiresTimeSortedInput()
	c.p.States[tid] = slices.Sorted(maps.Keys(pd.GetStateSpecs()))
	for _, f := range slices.Sorted(maps.Keys(pd.GetTimerFamilySpecs())) {
		fam, err := c.family(tid, f, pd.GetTimerFamilySpecs()[f])
		if err != nil {
			return fmt.Errorf("transform %q: %w", t.GetUniqueName(), err)
		}
		fam.Expiry = f == pd.GetOnWindowExpirationTimerFamilySpec()
		c.p.Families = append(c.p.Families, fam)
		c.p.Timers = append(c.p.Timers, [2]string{tid, f})
	}
	return nil
}

func (c *compiler) sinks(d *fnpb.ProcessBundleDescriptor) error {
	for i, out := range c.p.Stage.Outputs {
		cid, err := c.windowedID(out.Collection, false)
		if err != nil {
			return err
		}
		w, err := c.windowed(out.Collection)
		if err != nil {
			return err
		}
		s := Sink{ID: sinkPrefix + strconv.Itoa(i), Output: out, Windowed: w}
		c.p.Sinks = append(c.p.Sinks, s)
		c.p.sinkIDs = append(c.p.sinkIDs, s.ID)
		d.Transforms[s.ID] = portTransform(urnSink, cid)
		d.Transforms[s.ID].Inputs = map[string]string{"in": out.Collection}
	}
	return nil
}

// collections adds those that the transforms name. Inside a fused chain they
// have the SDK's own coders, where it looks at them: only ports, side inputs and
// the elements that come back in state and splits are as on the wire.
func (c *compiler) collections(d *fnpb.ProcessBundleDescriptor, declared map[string]string) {
	wire := map[string]bool{}
	for k, s := range c.p.SideInput {
		wire[d.Transforms[k.Transform].GetInputs()[s.Tag]] = true
	}
	if c.p.Node.Root == jobgraph.RootRestrictions || c.p.Node.Root == jobgraph.RootKeyed {
		wire[c.p.Stage.Collection] = true
	}
	for _, t := range d.Transforms {
		for _, m := range []map[string]string{t.Inputs, t.Outputs} {
			for _, id := range m {
				pc := c.comps.GetPcollections()[id]
				if own, ok := declared[id]; ok && !wire[id] {
					pc = proto.Clone(pc).(*pipepb.PCollection)
					pc.CoderId = own
				}
				if pc != nil && !wire[id] {
					pc = c.ofWindowed(pc)
				}
				if pc != nil {
					d.Pcollections[id] = pc
				}
			}
		}
	}
}

// ofWindowed hides that a collection's elements are windowed values themselves.
// Java's harness takes such a coder for the runner's own one around the element,
// and what is in it for the element's coder.
func (c *compiler) ofWindowed(pc *pipepb.PCollection) *pipepb.PCollection {
	switch c.coders[pc.GetCoderId()].GetSpec().GetUrn() {
	case coders.URNWindowedValue, coders.URNParamWindowedValue:
		pc = proto.Clone(pc).(*pipepb.PCollection)
		pc.CoderId = coders.LengthPrefixID(c.coders, pc.GetCoderId())
	}
	return pc
}

// windowedID adds the windowed coder of a collection, as a port names it.
func (c *compiler) windowedID(collection string, large bool) (string, error) {
	elem, window, err := c.parts(collection)
	if err != nil {
		return "", err
	}
	if large {
		elem = coders.StateBackedID(c.coders, elem)
	}
	return coders.WindowedID(c.coders, elem, window), nil
}

// windowed gives the cutter of a collection's wire bytes.
func (c *compiler) windowed(collection string) (*coders.Windowed, error) {
	elem, window, err := c.parts(collection)
	if err != nil {
		return nil, err
	}
	ec, err := c.table.Coder(elem)
	if err != nil {
		return nil, err
	}
	wc, err := c.table.Coder(window)
	if err != nil {
		return nil, err
	}
	return coders.NewWindowed(ec, wc), nil
}

func (c *compiler) parts(collection string) (elem, window string, err error) {
	pc := c.comps.GetPcollections()[collection]
	if pc == nil {
		return "", "", fmt.Errorf("plan has no collection %q", collection)
	}
	ws := c.comps.GetWindowingStrategies()[pc.GetWindowingStrategyId()]
	if ws == nil {
		return "", "", fmt.Errorf("collection %q has no windowing strategy %q", collection, pc.GetWindowingStrategyId())
	}
	return pc.GetCoderId(), ws.GetWindowCoderId(), nil
}

func portTransform(urn, coder string) *pipepb.PTransform {
	return &pipepb.PTransform{
		UniqueName: urn,
		Spec:       &pipepb.FunctionSpec{Urn: urn, Payload: mustMarshal(&fnpb.RemoteGrpcPort{CoderId: coder})},
	}
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // only our own messages come here
	}
	return b
}
