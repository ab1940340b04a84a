// Package graphtest writes pipelines as text, for tests.
//
// A line is a transform, or says more of a collection, and reads as a printed
// graph does:
//
//	impulse      Start             out=a
//	pardo        Split  in=a       out=b,c side=m:d:multimap env=py stateful
//	gbk          Group  in=b       out=g
//	flatten      All    in=c,e     out=f
//	reshuffle    Spread in=f       out=h
//	combine      Sum    in=b       out=s acc=varint
//	splittable   Read   in=a       out=r restriction=bytes
//	restrictions Proc   in=p       out=q
//	collection   b coder=kv<bytes,money> window=sessions unbounded
//
// The word after the kind is both id and name. Kinds that a printed graph gives
// to special ParDos (precombine, pair, window …) can be written too. A transform
// that a worker runs is in environment sdk unless env= says otherwise.
//
// Collections have coder kv<bytes,bytes>; an impulse's bytes; a GroupByKey's,
// Flatten's and Reshuffle's what follows from their input's. A coder's name that
// isn't one of Beam's is a coder that the runner doesn't know. Windows are
// global, fixed, sliding or sessions; trigger= and mode= are for the strategy.
package graphtest

import (
	"fmt"
	"strings"

	"trestle/runner/graph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Parse gives the graph that is written in text. What it says goes through
// graph.FromProto, so that it is as sound as any.
func Parse(text string) (*graph.Graph, error) {
	p, err := Pipeline(text)
	if err != nil {
		return nil, err
	}
	return graph.FromProto(p)
}

// Pipeline gives the pipeline that is written in text.
func Pipeline(text string) (*pipepb.Pipeline, error) {
	b := builder{
		c: &pipepb.Components{
			Transforms:          map[string]*pipepb.PTransform{},
			Pcollections:        map[string]*pipepb.PCollection{},
			WindowingStrategies: map[string]*pipepb.WindowingStrategy{},
			Coders:              map[string]*pipepb.Coder{},
			Environments:        map[string]*pipepb.Environment{},
		},
		coders: map[string]string{},
	}
	var lines []line
	for i, s := range strings.Split(text, "\n") {
		if s = strings.TrimSpace(s); s == "" || strings.HasPrefix(s, "#") {
			continue
		}
		l, err := parseLine(s)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		lines = append(lines, l)
	}
	for _, l := range lines { // transforms look at the coders of their inputs
		if l.kind == "collection" {
			b.coders[l.id] = l.value("coder")
		}
	}
	for _, l := range lines {
		if err := b.add(l); err != nil {
			return nil, fmt.Errorf("%s %s: %w", l.kind, l.id, err)
		}
	}
	return &pipepb.Pipeline{Components: b.c, RootTransformIds: b.roots}, nil
}

// A line is one line of text.
type line struct {
	kind, id string
	args     map[string][]string
}

func (l line) value(arg string) string {
	if len(l.args[arg]) == 0 {
		return ""
	}
	return strings.Join(l.args[arg], ",")
}

func (l line) has(arg string) bool { return l.args[arg] != nil }

func parseLine(s string) (line, error) {
	words := strings.Fields(s)
	if len(words) < 2 {
		return line{}, fmt.Errorf("%q: want a kind and a name", s)
	}
	l := line{kind: words[0], id: words[1], args: map[string][]string{}}
	for _, w := range words[2:] {
		name, value, found := strings.Cut(w, "=")
		if !known[name] {
			return line{}, fmt.Errorf("unknown word %q", w)
		}
		l.args[name] = []string{}
		if found {
			l.args[name] = strings.Split(value, ",")
		}
	}
	return l, nil
}

var known = map[string]bool{
	"in": true, "out": true, "side": true, "env": true, "acc": true, "restriction": true, "coder": true,
	"window": true, "trigger": true, "mode": true, "timer": true, "list": true, "parts": true,
	"stateful": true, "stable": true, "unbounded": true,
}

var urns = map[string]string{
	"impulse": graph.URNImpulse, "pardo": graph.URNParDo, "gbk": graph.URNGroupByKey, "flatten": graph.URNFlatten,
	"reshuffle": graph.URNReshuffle, "combine": graph.URNCombinePerKey, "splittable": graph.URNParDo,
	"restrictions": graph.URNProcessRestrictions, "precombine": graph.URNPrecombine, "merge": graph.URNMergeAccumulators,
	"extract": graph.URNExtractOutputs, "combine_values": graph.URNCombineGroupedValues, "pair": graph.URNPairWithRestriction,
	"split": graph.URNSplitAndSize, "window": graph.URNWindowInto, "map_windows": graph.URNMapWindows, "composite": "",
}

// A builder makes a pipeline's components.
type builder struct {
	c      *pipepb.Components
	coders map[string]string // collection → its coder, as written
	roots  []string
}

func (b *builder) add(l line) error {
	if l.kind == "collection" {
		b.collection(l.id)
		pc := b.c.Pcollections[l.id]
		if l.has("unbounded") {
			pc.IsBounded = pipepb.IsBounded_UNBOUNDED
		}
		if l.has("window") {
			pc.WindowingStrategyId = b.windowing(l)
		}
		return nil
	}
	urn, ok := urns[l.kind]
	if !ok {
		return fmt.Errorf("no such kind")
	}
	t := &pipepb.PTransform{
		UniqueName:    l.id,
		Spec:          &pipepb.FunctionSpec{Urn: urn},
		Inputs:        map[string]string{},
		Outputs:       map[string]string{},
		Subtransforms: l.args["parts"],
	}
	b.outCoder(l)
	for i, c := range l.args["in"] {
		t.Inputs[fmt.Sprintf("i%d", i)] = c
		b.collection(c)
	}
	for i, c := range l.args["out"] {
		t.Outputs[fmt.Sprintf("o%d", i)] = c
		b.collection(c)
	}
	b.environment(l, t)
	if err := b.payload(l, t); err != nil {
		return err
	}
	b.c.Transforms[l.id] = t
	b.roots = append(b.roots, l.id)
	for _, part := range t.Subtransforms { // parts are written before their composite
		for i, r := range b.roots {
			if r == part {
				b.roots = append(b.roots[:i], b.roots[i+1:]...)
				break
			}
		}
	}
	return nil
}

// outCoder says what the output's coder is, if it follows from the kind.
func (b *builder) outCoder(l line) {
	out := l.value("out")
	if out == "" || b.coders[out] != "" {
		return
	}
	in := "kv<bytes,bytes>"
	if len(l.args["in"]) > 0 && b.coders[l.args["in"][0]] != "" {
		in = b.coders[l.args["in"][0]]
	}
	switch l.kind {
	case "impulse":
		b.coders[out] = "bytes"
	case "reshuffle", "flatten":
		b.coders[out] = in
	case "gbk":
		if parts := components(in); len(parts) == 2 {
			b.coders[out] = "kv<" + parts[0] + ",iterable<" + parts[1] + ">>"
		}
	}
}

func (b *builder) environment(l line, t *pipepb.PTransform) {
	switch l.kind {
	case "impulse", "gbk", "composite":
		return
	}
	t.EnvironmentId = "sdk"
	if l.has("env") {
		t.EnvironmentId = l.value("env")
	}
	b.c.Environments[t.EnvironmentId] = &pipepb.Environment{Urn: "beam:env:external:v1"}
}

func (b *builder) collection(id string) {
	if b.c.Pcollections[id] != nil {
		return
	}
	text := b.coders[id]
	if text == "" {
		text = "kv<bytes,bytes>"
	}
	b.c.Pcollections[id] = &pipepb.PCollection{
		UniqueName:          id,
		CoderId:             b.coder(text),
		IsBounded:           pipepb.IsBounded_BOUNDED,
		WindowingStrategyId: b.windowing(line{}),
	}
}

// payload writes what a worker is told.
func (b *builder) payload(l line, t *pipepb.PTransform) error {
	var pay proto.Message
	fn := &pipepb.FunctionSpec{Urn: "test:fn:" + l.id}
	switch l.kind {
	case "combine", "precombine", "merge", "extract", "combine_values":
		acc := "varint"
		if l.has("acc") {
			acc = l.value("acc")
		}
		pay = &pipepb.CombinePayload{CombineFn: fn, AccumulatorCoderId: b.coder(acc)}
	case "pardo", "splittable", "restrictions", "pair", "split":
		pd := &pipepb.ParDoPayload{DoFn: fn, RequiresStableInput: l.has("stable")}
		if l.kind != "pardo" {
			pd.RestrictionCoderId = b.coder("bytes")
			if l.has("restriction") {
				pd.RestrictionCoderId = b.coder(l.value("restriction"))
			}
		}
		b.sides(l, t, pd)
		b.states(l, pd)
		pay = pd
	default:
		return nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(pay)
	t.Spec.Payload = data
	return err
}

// sides reads side=TAG:COLLECTION[:multimap] or just side=COLLECTION.
func (b *builder) sides(l line, t *pipepb.PTransform, pd *pipepb.ParDoPayload) {
	pd.SideInputs = map[string]*pipepb.SideInput{}
	for i, s := range l.args["side"] {
		parts := strings.Split(s, ":")
		if len(parts) == 1 {
			parts = []string{fmt.Sprintf("s%d", i), s}
		}
		access := graph.AccessIterable
		if len(parts) == 3 {
			access = "beam:side_input:" + parts[2] + ":v1"
		}
		pd.SideInputs[parts[0]] = &pipepb.SideInput{AccessPattern: &pipepb.FunctionSpec{Urn: access}}
		t.Inputs[parts[0]] = parts[1]
		b.collection(parts[1])
	}
}

// states reads stateful, list=CODER (an ordered list) and timer=KEYCODER.
func (b *builder) states(l line, pd *pipepb.ParDoPayload) {
	pd.StateSpecs = map[string]*pipepb.StateSpec{}
	if l.has("stateful") {
		pd.StateSpecs["seen"] = &pipepb.StateSpec{
			Spec:     &pipepb.StateSpec_BagSpec{BagSpec: &pipepb.BagStateSpec{ElementCoderId: b.coder("bytes")}},
			Protocol: &pipepb.FunctionSpec{Urn: "beam:user_state:bag:v1"},
		}
	}
	if l.has("list") {
		pd.StateSpecs["list"] = &pipepb.StateSpec{
			Spec:     &pipepb.StateSpec_OrderedListSpec{OrderedListSpec: &pipepb.OrderedListStateSpec{ElementCoderId: b.coder(l.value("list"))}},
			Protocol: &pipepb.FunctionSpec{Urn: "beam:user_state:ordered_list:v1"},
		}
	}
	if l.has("timer") {
		pd.TimerFamilySpecs = map[string]*pipepb.TimerFamilySpec{"t": {
			TimeDomain:         pipepb.TimeDomain_EVENT_TIME,
			TimerFamilyCoderId: b.coder("timer<" + l.value("timer") + ",global_window>"),
		}}
	}
}
