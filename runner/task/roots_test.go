package task_test

import (
	"strings"
	"testing"
	"time"

	"trestle/fnapi/fnapitest"
	"trestle/runner/jobgraph"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A worker that cuts an element into what is none fails its task, by name. Nobody
// is given what it gave back, which another worker could only choke on.
func TestRootsThatAreNone(t *testing.T) {
	for name, damage := range map[string]func(r *fnpb.ProcessBundleSplitResponse){
		"nothing is kept":       func(r *fnpb.ProcessBundleSplitResponse) { r.PrimaryRoots[0].Element = nil },
		"nothing is given back": func(r *fnpb.ProcessBundleSplitResponse) { r.ResidualRoots[0].Application.Element = nil },
		"no application":        func(r *fnpb.ProcessBundleSplitResponse) { r.ResidualRoots[0].Application = nil },
		"half an element": func(r *fnpb.ProcessBundleSplitResponse) {
			a := r.ResidualRoots[0].Application
			a.Element = a.Element[:len(a.Element)/2]
		},
		"two elements": func(r *fnpb.ProcessBundleSplitResponse) {
			a := r.PrimaryRoots[0]
			a.Element = append(a.Element, a.Element...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &splitter{
				emit: func(*fnapitest.Call, span, int) error { time.Sleep(time.Millisecond); return nil },
				onSplit: func(r *fnpb.ProcessBundleSplitResponse) {
					if len(r.GetPrimaryRoots()) > 0 {
						damage(r)
					}
				},
			}
			r := newSource(t, p, nil, span{"x", 0, 100_000})
			r.bundleTime = time.Millisecond
			s := r.spec(r.stage("Read.process"), 0, 1, 1)
			r.start(s)
			rep := r.end(s.ID)
			if rep.Failed == nil || !strings.Contains(rep.Failed.Message, "is no element") {
				t.Errorf("%+v, want a failure by what is no element", rep)
			}
		})
	}
}

// So does one that leaves over what is none, in a streaming job, too.
func TestRestThatIsNone(t *testing.T) {
	rest := &fnpb.DelayedBundleApplication{Application: &fnpb.BundleApplication{TransformId: "Read", InputId: "i"}}
	for _, pipeline := range []string{source, endlessSource} {
		p := &splitter{t: t, bundles: map[string]*spans{}, emit: func(*fnapitest.Call, span, int) error { return nil }}
		var r *rig
		r = newRig(t, pipeline, options{worker: func(_ int, h *fnapitest.Harness) {
			h.Process = func(c *fnapitest.Call, transform string, chunk []byte) error {
				if r.stageOf(c) == r.stage("Make") {
					return c.Emit(c.Sinks[0], span{"x", 0, 10}.encode())
				} else if r.stageOf(c) == r.stage("Read.process") {
					return p.process(c, chunk)
				}
				return r.code.Process(c, transform, chunk)
			}
			h.Finish = func(c *fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
				resp, err := p.finish(c)
				if err == nil && r.stageOf(c) == r.stage("Read.process") {
					resp.ResidualRoots = append(resp.ResidualRoots, rest)
				}
				return resp, err
			}
		}})
		read := r.spec(r.stage("Read.process"), 0, 1, 1)
		if pipeline == source {
			r.run(r.stage("Make"), 1)
			read = r.spec(read.Stage, 0, 1, 1)
			r.start(read)
		} else {
			for _, s := range r.plan.Graph.Stages {
				r.start(r.spec(s.ID, 0, 1, 1))
			}
		}
		if rep := r.end(read.ID); rep.Failed == nil || !strings.Contains(rep.Failed.Message, `of transform "Read", is no element`) {
			t.Errorf("%+v, want a failure by what is no element", rep)
		}
	}
}

// stageOf is the stage that a bundle is of.
func (r *rig) stageOf(c *fnapitest.Call) jobgraph.StageID {
	stage, _, _ := strings.Cut(c.Descriptor.GetId(), "/")
	return jobgraph.StageID(stage)
}
