package graph_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"trestle/runner/graph"
	"trestle/runner/graph/graphtest"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

const sound = `
	impulse Start out=a
	pardo   Split in=a out=b
	gbk     Group in=b out=c
	pardo   Keep  in=b side=m:b:multimap out=d stateful timer=bytes
	splittable Read in=a out=e
	collection c coder=kv<bytes,iterable<bytes>>
`

func pipeline(t testing.TB, text string) *pipepb.Pipeline {
	t.Helper()
	p, err := graphtest.Pipeline(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// payload changes a ParDo's payload.
func payload(p *pipepb.Pipeline, id string, change func(*pipepb.ParDoPayload)) {
	var pay pipepb.ParDoPayload
	spec := p.Components.Transforms[id].Spec
	if err := proto.Unmarshal(spec.Payload, &pay); err != nil {
		panic(err)
	}
	change(&pay)
	spec.Payload, _ = proto.Marshal(&pay)
}

// breakages break a sound pipeline in one place each.
var breakages = []struct {
	name string
	harm func(p *pipepb.Pipeline, c *pipepb.Components)
	want string // part of the only error
}{
	{"requirement", func(p *pipepb.Pipeline, _ *pipepb.Components) { p.Requirements = []string{"beam:requirement:magic:v1"} },
		`pipeline: requires "beam:requirement:magic:v1", which is not known here; known are beam:requirement:pardo:stateful:v1,`},
	{"root", func(p *pipepb.Pipeline, _ *pipepb.Components) { p.RootTransformIds = []string{"Nobody"} },
		`pipeline: names "Nobody" as a root transform, but has no such transform`},
	{"part", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Outer"] = &pipepb.PTransform{UniqueName: "All", Subtransforms: []string{"Split", "Nobody"}}
	}, `transform "All" (Outer): has a part "Nobody" that is not in the pipeline`},
	{"collection", func(_ *pipepb.Pipeline, c *pipepb.Components) { delete(c.Pcollections, "e") },
		`transform "Read" (Read): output "o0" is collection "e", which is not in the pipeline`},
	{"coder", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Pcollections["e"].CoderId = "lost" },
		`transform "Read" (Read): output "o0" (e): coder "lost" is not in the pipeline`},
	{"part of coder", func(_ *pipepb.Pipeline, c *pipepb.Components) { delete(c.Coders, "bytes") },
		`output "o0" (a): coder "bytes" is not in the pipeline`},
	{"nil coder", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Coders["bytes"] = nil },
		`output "o0" (a): coder "bytes" is not in the pipeline`},
	{"coder of itself", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Coders["iterable<bytes>"].ComponentCoderIds = []string{"kv<bytes,iterable<bytes>>"}
	}, `is part of itself`},
	{"components of coder", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Coders["iterable<bytes>"].ComponentCoderIds = nil
	}, `coder "iterable<bytes>" is beam:coder:iterable:v1 and must have 1 components, but has 0`},
	{"exploding coder", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		for i := range 40 {
			c.Coders[fmt.Sprint("x", i)] = &pipepb.Coder{
				Spec:              &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"},
				ComponentCoderIds: []string{fmt.Sprint("x", i+1), fmt.Sprint("x", i+1)},
			}
		}
		c.Coders["x40"] = c.Coders["bytes"]
		c.Pcollections["e"].CoderId = "x0"
	}, `consists of more than 10000 parts`},
	{"windowing", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Pcollections["e"].WindowingStrategyId = "lost" },
		`transform "Read" (Read): output "o0" (e): windowing strategy "lost" is not in the pipeline`},
	{"environment", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Transforms["Read"].EnvironmentId = "lost" },
		`transform "Read" (Read): names environment "lost", which is not in the pipeline`},
	{"no environment", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Split"].EnvironmentId, c.Transforms["Split"].Spec.Urn = "", "magic"
	}, `transform "Split" (Split): is "magic", which the runner doesn't do itself, and has no environment to run it in`},
	{"not expanded", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Split"].Spec.Urn = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1"
	}, `was not expanded`},
	{"fused", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Split"].Spec.Urn = "beam:runner:executable_stage:v1"
	}, `transform "Split" (Split): was fused by its SDK`},
	{"payload", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Transforms["Read"].Spec.Payload = []byte{0xff} },
		`transform "Read" (Read): has a payload that is not a ParDoPayload`},
	{"side input", func(p *pipepb.Pipeline, _ *pipepb.Components) {
		payload(p, "Split", func(pay *pipepb.ParDoPayload) {
			pay.SideInputs = map[string]*pipepb.SideInput{"gone": {AccessPattern: &pipepb.FunctionSpec{Urn: graph.AccessIterable}}}
		})
	}, `transform "Split" (Split): declares a side input "gone", but has no input of that name`},
	{"timers", func(p *pipepb.Pipeline, _ *pipepb.Components) {
		payload(p, "Keep", func(pay *pipepb.ParDoPayload) {
			pay.TimerFamilySpecs["t"].TimeDomain = 0
			pay.OnWindowExpirationTimerFamilySpec = "t"
		})
	}, `has timers "t" in time domain UNSPECIFIED`},
	{"state", func(p *pipepb.Pipeline, _ *pipepb.Components) {
		payload(p, "Keep", func(pay *pipepb.ParDoPayload) { pay.StateSpecs["seen"].Protocol.Urn = "beam:user_state:graph:v1" })
	}, `declares state "seen" with protocol "beam:user_state:graph:v1"; it must be beam:user_state:bag:v1,`},
	{"impulse", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Pcollections["a"].CoderId = "kv<bytes,bytes>" },
		`transform "Start" (Start): output must have a bytes coder, but has kv`},
	{"test stream", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Start"].Spec.Urn = "beam:transform:teststream:v1"
		c.Transforms["Start"].Inputs = map[string]string{"in": "b"}
	}, `transform "Start" (Start): must have 0 inputs, but has 1`},
	{"nil transform", func(_ *pipepb.Pipeline, c *pipepb.Components) { c.Transforms["Start"] = nil },
		`pipeline: names "Start" as a root transform, but has no such transform`},
	{"long name", func(_ *pipepb.Pipeline, c *pipepb.Components) {
		c.Transforms["Read"].UniqueName = strings.Repeat("x", 1e6)
		c.Transforms["Read"].EnvironmentId = "lost"
	}, `x…" (Read): names environment`},
}

// TestBroken: each breakage is told, where it is and what would be right.
func TestBroken(t *testing.T) {
	for _, tc := range breakages {
		t.Run(tc.name, func(t *testing.T) {
			p := pipeline(t, sound)
			tc.harm(p, p.Components)
			_, err := graph.FromProto(p)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got  %v\nwant %s", err, tc.want)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
			var one *graph.PipelineError
			if !errors.As(err, &one) {
				t.Errorf("got %T, want a PipelineError in it", err)
			}
		})
	}
}

// TestErrorsAreBounded: a pipeline of nothing but mistakes gets a short answer.
func TestErrorsAreBounded(t *testing.T) {
	p := pipeline(t, sound)
	for i := range 5000 {
		p.Components.Transforms[fmt.Sprintf("Bad%04d", i)] = &pipepb.PTransform{
			Spec: &pipepb.FunctionSpec{Urn: graph.URNParDo}, EnvironmentId: "lost", Inputs: map[string]string{"i": "a"},
		}
	}
	_, err := graph.FromProto(p)
	if err == nil || !strings.HasSuffix(err.Error(), "pipeline: has 4900 more mistakes") {
		t.Errorf("got %.200v …", err)
	}
}

// TestDeep: composites may nest deep, but not without end.
func TestDeep(t *testing.T) {
	p := pipeline(t, sound)
	for i := range 100_000 {
		p.Components.Transforms[fmt.Sprint("c", i)] = &pipepb.PTransform{Subtransforms: []string{fmt.Sprint("c", i+1)}}
	}
	p.Components.Transforms["c100000"] = &pipepb.PTransform{}
	if _, err := graph.FromProto(p); err == nil || !strings.Contains(err.Error(), "is nested more than 1000 composites deep") {
		t.Errorf("got %v", err)
	}
}

// TestComponents: what a graph gives back is a pipeline that reads as the same
// graph.
func TestComponents(t *testing.T) {
	g, err := graphtest.Parse(sound)
	if err != nil {
		t.Fatal(err)
	}
	again, err := graph.FromProto(&pipepb.Pipeline{Components: g.Components()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(g.String(), again.String()); diff != "" {
		t.Error(diff)
	}
}

// FuzzFromProto: whatever a client sends, it gets a graph or an error.
func FuzzFromProto(f *testing.F) {
	for _, file := range []string{"testdata/accepted", "testdata/refused"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(text), "\nread\n") {
			input, _, _ := strings.Cut(part, "\n----")
			p, err := graphtest.Pipeline(input)
			if err != nil {
				continue
			}
			data, err := proto.Marshal(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p pipepb.Pipeline
		if proto.Unmarshal(data, &p) != nil {
			return
		}
		g, err := graph.FromProto(&p)
		if err != nil {
			return
		}
		again, err := graph.FromProto(&p)
		if err != nil || g.String() != again.String() {
			t.Errorf("read twice, it was\n%s\nand then\n%s (%v)", g, again, err)
		}
	})
}
