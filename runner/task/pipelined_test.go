package task_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"trestle/coders"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/jobgraph"
	"trestle/runner/task"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// foreign makes the environments that are not called sdk other ones.
func foreign(p *pipepb.Pipeline) {
	for id, e := range p.Components.Environments {
		if id != "sdk" {
			e.Payload = []byte(id)
		}
	}
}

// handed has a pointwise edge between two environments.
const handed = `
impulse   Start         out=a
pardo     Make   in=a   out=b
pardo     Far    in=b   out=c env=far
gbk       Group  in=c   out=d
pardo     End    in=d   out=e`

// many is user code that emits count elements of about size bytes, one at a
// time, and counts them.
func many(collection string, count, size int, sent *atomic.Int64) bundletest.Fn {
	return func(c *bundletest.Call, _ *coders.Value) error {
		for i := range count {
			if err := c.Emit(collection, bundletest.Element(0, fmt.Sprintf("k%d", i%10), strings.Repeat("x", size))); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	}
}

func pipelined(t *testing.T, r *rig, collection string) {
	t.Helper()
	for _, ds := range r.plan.Graph.Datasets {
		if ds.Collection == collection && ds.Exchange == jobgraph.Pipelined {
			return
		}
	}
	t.Fatalf("collection %s isn't pipelined:\n%v", collection, r.plan)
}

// Two tasks of one region run at once, in either order of their start, and
// nothing between them is lost.
func TestPipelined(t *testing.T) {
	for _, order := range []string{"Make Far", "Far Make"} {
		t.Run(order, func(t *testing.T) {
			var sent atomic.Int64
			r := newRig(t, handed, options{
				mode: "pointwise-pipelined", edit: []func(*pipepb.Pipeline){foreign},
				fns: map[string]bundletest.Fn{"Make": many("b", 5000, 200, &sent)},
			})
			pipelined(t, r, "b")
			var specs []task.Spec
			for _, name := range strings.Fields(order) {
				specs = append(specs, r.spec(r.stage(name), 0, 1, 1))
			}
			r.start(specs...)
			for _, f := range r.finish(specs...) {
				for _, o := range f.Outputs {
					if o.Count != 5000 {
						t.Errorf("%v wrote %d elements to %s, want 5000", f.ID, o.Count, o.Dataset)
					}
				}
			}
		})
	}
}

// When one of two tasks fails, the other doesn't stay: it ends with an error
// that isn't its own fault.
func TestPipelinedFailure(t *testing.T) {
	boom := func(*bundletest.Call, *coders.Value) error { return errors.New("boom") }
	for _, who := range []string{"Make", "Far"} {
		t.Run(who, func(t *testing.T) {
			var sent atomic.Int64
			fns := map[string]bundletest.Fn{"Make": many("b", 5000, 2000, &sent)}
			fns[who] = boom
			r := newRig(t, handed, options{
				mode: "pointwise-pipelined", edit: []func(*pipepb.Pipeline){foreign}, fns: fns,
			})
			a, b := r.spec(r.stage("Make"), 0, 1, 1), r.spec(r.stage("Far"), 0, 1, 1)
			r.start(a, b)
			for _, s := range []task.Spec{a, b} {
				f := r.end(s.ID).Failed
				if f == nil {
					t.Fatalf("%v didn't fail", s.ID)
				}
				own := s.Stage == r.stage(who)
				if own != (f.Cause == task.CauseUser) {
					t.Errorf("%v failed by the %s: %s", s.ID, f.Cause, f.Message)
				}
			}
		})
	}
}

// A task that waits for the room of a reader that never comes, and one that
// waits for a writer, can be cancelled.
func TestPipelinedCancel(t *testing.T) {
	for _, who := range []string{"Make", "Far"} {
		t.Run(who, func(t *testing.T) {
			var sent atomic.Int64
			r := newRig(t, handed, options{
				mode: "pointwise-pipelined", edit: []func(*pipepb.Pipeline){foreign},
				fns: map[string]bundletest.Fn{"Make": many("b", 2000, 2000, &sent)},
			})
			s := r.spec(r.stage(who), 0, 1, 1)
			r.start(s)
			r.began(s.ID)
			r.tm.Cancel([]task.ID{s.ID})
			if f := r.end(s.ID).Failed; f == nil || f.Cause != task.CauseCanceled {
				t.Errorf("%+v, want canceled", f)
			}
		})
	}
}

// A stage reads what one producer hands it directly and by way of another
// stage. It must read both at once: the producer waits for room on one way, and
// the end of the other way waits for the producer.
func TestPipelinedDiamond(t *testing.T) {
	var sent atomic.Int64
	r := newRig(t, `
impulse   Start         out=a
pardo     Make   in=a   out=b,x
pardo     Detour in=b   out=c env=far
pardo     Third  in=x   out=y env=third
flatten   Both   in=c,y out=d env=home
pardo     Home   in=d   out=e env=home
gbk       Group  in=e   out=f
pardo     End    in=f   out=g env=home`, options{
		mode: "pointwise-pipelined", edit: []func(*pipepb.Pipeline){foreign},
		fns: map[string]bundletest.Fn{"Make": func(c *bundletest.Call, v *coders.Value) error {
			for range 30 {
				if err := many("b", 100, 2000, &sent)(c, v); err != nil {
					return err
				}
				if err := many("x", 100, 2000, &sent)(c, v); err != nil {
					return err
				}
			}
			return nil
		}},
	})
	t.Log(r.plan)
	pipelined(t, r, "b")
	var specs []task.Spec
	for _, s := range r.plan.Graph.Stages {
		if s.ID != r.stage("End") {
			specs = append(specs, r.spec(s.ID, 0, 1, 1))
		}
	}
	r.start(specs...)
	done := r.finish(specs...)
	if n := done[len(done)-1].OutElements; n != 6000 {
		t.Errorf("%d elements came through, want 6000", n)
	}
}
