// Package bundletest gives tests stages to run and fake workers to run them on.
//
// Plan makes the plan of a pipeline written as package graphtest has it. Workers
// lends fake SDK harnesses (package fnapitest) whose user code is a Go function
// over elements, a Fn. Elements are written as text, "key:value@timestamp".
package bundletest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle"
	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/graph/graphtest"
	"trestle/runner/jobgraph"
	"trestle/runner/region"
	"trestle/transforms"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Plan makes the plan of a pipeline. edit may change the pipeline before.
func Plan(t testing.TB, text string, mode region.Mode, edit ...func(*pipepb.Pipeline)) *fusion.Plan {
	t.Helper()
	p, err := graphtest.Pipeline(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(p)
	}
	g, err := graph.FromProto(p)
	if err == nil {
		g, err = transforms.Apply(g, transforms.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	plan, err := fusion.Fuse(g, g.Components())
	if err != nil {
		t.Fatal(err)
	}
	region.Compute(plan.Graph, region.Options{Mode: mode, Slots: 100})
	return plan
}

// EditParDo changes the payload of one ParDo.
func EditParDo(transform string, edit func(*pipepb.ParDoPayload, *pipepb.Components)) func(*pipepb.Pipeline) {
	return func(p *pipepb.Pipeline) {
		spec := p.Components.Transforms[transform].Spec
		var pay pipepb.ParDoPayload
		if err := proto.Unmarshal(spec.Payload, &pay); err != nil {
			panic(err) // graphtest marshalled it
		}
		edit(&pay, p.Components)
		b, err := proto.Marshal(&pay)
		if err != nil {
			panic(err)
		}
		spec.Payload = b
	}
}

// Capable gives all environments a capability.
func Capable(urn string) func(*pipepb.Pipeline) {
	return func(p *pipepb.Pipeline) {
		for _, e := range p.Components.Environments {
			e.Capabilities = append(e.Capabilities, urn)
		}
	}
}

// StageOf is the stage that a transform is in.
func StageOf(t testing.TB, plan *fusion.Plan, transform string) jobgraph.StageID {
	t.Helper()
	for _, s := range plan.Graph.Stages {
		if slices.Contains(plan.Stages[s.ID].Transforms, transform) || plan.Stages[s.ID].RootTransform == transform {
			return s.ID
		}
	}
	t.Fatalf("no stage has transform %s:\n%v", transform, plan)
	return ""
}

// A Fn is user code: it is given each element of its stage's source.
type Fn func(c *Call, v *coders.Value) error

// A Call is a bundle in the hands of a Fn.
type Call struct {
	*fnapitest.Call
	Program *bundle.Program
}

// Emit sends an encoded element to a collection.
func (c *Call) Emit(collection string, elem []byte) error {
	for _, s := range c.Program.Sinks {
		if s.Output.Collection == collection {
			return c.Call.Emit(s.ID, elem)
		}
	}
	return fmt.Errorf("stage %s has no output %q", c.Program.Stage.ID, collection)
}

// EmitAll sends elements written as text.
func (c *Call) EmitAll(collection, text string) error {
	for _, e := range Elements(text) {
		if err := c.Emit(collection, e); err != nil {
			return err
		}
	}
	return nil
}

// Code is what a pipeline's transforms do, by transform id; the first transform
// of a stage that has some is the stage's. One without echoes to all outputs.
type Code struct {
	Plan *fusion.Plan
	Fns  map[string]Fn

	mu       sync.Mutex
	programs map[jobgraph.StageID]*bundle.Program
}

// Program is what a stage's descriptor was made of.
func (k *Code) Program(descriptor string) (*bundle.Program, error) {
	stage, _, _ := strings.Cut(descriptor, "/")
	id := jobgraph.StageID(stage)
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.programs[id]; p != nil {
		return p, nil
	}
	p, err := bundle.Compile(k.Plan, id)
	if err != nil {
		return nil, err
	}
	if k.programs == nil {
		k.programs = map[jobgraph.StageID]*bundle.Program{}
	}
	k.programs[id] = p
	return p, nil
}

// Call is c with its program.
func (k *Code) Call(c *fnapitest.Call) (*Call, error) {
	p, err := k.Program(c.Descriptor.GetId())
	return &Call{Call: c, Program: p}, err
}

// Process is a fnapitest.Harness's.
func (k *Code) Process(c *fnapitest.Call, _ string, chunk []byte) error {
	call, err := k.Call(c)
	if err != nil {
		return err
	}
	var fn Fn
	for _, id := range call.Program.Stage.Transforms {
		if fn = k.Fns[id]; fn != nil {
			break
		}
	}
	if fn == nil {
		for _, s := range c.Sinks {
			if err := c.Emit(s, chunk); err != nil {
				return err
			}
		}
		return nil
	}
	var v coders.Value
	for len(chunk) > 0 {
		if chunk, err = call.Program.Input.Next(chunk, &v); err != nil {
			return err
		}
		if err := fn(call, &v); err != nil {
			return err
		}
	}
	return nil
}

// Element encodes one kv<bytes,bytes> in the global window.
func Element(ts element.Timestamp, key, value string) []byte {
	b := coders.AppendHeader(nil, ts, 1, nil, coders.NoFiring)
	return append(append(b, Bytes(key)...), Bytes(value)...)
}

// Bytes encodes a byte string in the nested context.
func Bytes(s string) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(s))), s...)
}

// Elements encodes "key:value@timestamp key:value …"; without one the timestamp
// is 0.
func Elements(text string) [][]byte {
	var all [][]byte
	for _, w := range strings.Fields(text) {
		w, at, _ := strings.Cut(w, "@")
		key, value, _ := strings.Cut(w, ":")
		ts, _ := strconv.Atoi(at)
		all = append(all, Element(element.Timestamp(ts), key, value))
	}
	return all
}

// Chunk is Elements one after another.
func Chunk(text string) []byte { return slices.Concat(Elements(text)...) }

// Text writes a kv<bytes,bytes>, with its timestamp unless that is 0.
func Text(v *coders.Value) string {
	s := Word(v.Key()) + ":" + Word(v.KVValue())
	if ts := v.Timestamp(); ts != 0 {
		s += "@" + strconv.Itoa(int(ts))
	}
	return s
}

// Word decodes a byte string in the nested context.
func Word(b []byte) string {
	n, used := binary.Uvarint(b)
	if used <= 0 || uint64(len(b)-used) < n {
		return fmt.Sprintf("malformed:%x", b)
	}
	return string(b[used : used+int(n)])
}
