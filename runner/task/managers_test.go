package task_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/region"
	"trestle/runner/task"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Each of three TaskManagers writes a part of what is grouped, and each reads its
// keys from all.
func TestGroupOverTheNetwork(t *testing.T) {
	r := newRig(t, grouped, options{managers: 3, fns: map[string]bundletest.Fn{
		"Make": emits("b", numbers(1000, 10)), "Count": countValues,
	}})
	r.run(r.stage("Make"), 3)
	r.run(r.stage("Count"), 4)
	want := []string{}
	for i := range 10 {
		want = append(want, fmt.Sprintf("k%d:300", i))
	}
	if got := r.output("d"); got != strings.Join(want, " ") {
		t.Errorf("output %q", got)
	}
}

// What is handed from one task to the next while both run crosses the network,
// whether the two stages are pipelined pointwise or all stages are.
func TestPipelinedOverTheNetwork(t *testing.T) {
	for _, mode := range []region.Mode{region.PointwisePipelined, region.AllPipelined} {
		t.Run(string(mode), func(t *testing.T) {
			var sent atomic.Int64
			r := newRig(t, handed, options{
				managers: 2, mode: mode, edit: []func(*pipepb.Pipeline){foreign},
				fns: map[string]bundletest.Fn{"Make": many("b", 5000, 200, &sent)},
			})
			pipelined(t, r, "b")
			r.shift[r.stage("Far")] = 1
			specs := []task.Spec{r.spec(r.stage("Make"), 0, 1, 1), r.spec(r.stage("Far"), 0, 1, 1)}
			if mode == region.AllPipelined {
				r.width[r.stage("Far")] = 1
				for i := range 2 {
					specs = append(specs, r.spec(r.stage("End"), i, 2, 1))
				}
			}
			r.start(specs...)
			n := int64(0)
			for _, f := range r.finish(specs...) {
				if f.Stage == r.stage("Far") {
					n = f.OutElements
				}
			}
			if n != 5000 {
				t.Errorf("%d elements came through, want 5000", n)
			}
		})
	}
}

// When the reader fails, the writer elsewhere doesn't stay, nor the other way
// round.
func TestPipelinedFailureOverTheNetwork(t *testing.T) {
	boom := func(*bundletest.Call, *coders.Value) error { return errors.New("boom") }
	for _, who := range []string{"Make", "Far"} {
		t.Run(who, func(t *testing.T) {
			var sent atomic.Int64
			fns := map[string]bundletest.Fn{"Make": many("b", 5000, 2000, &sent)}
			fns[who] = boom
			r := newRig(t, handed, options{
				managers: 2, mode: region.PointwisePipelined, edit: []func(*pipepb.Pipeline){foreign}, fns: fns,
			})
			r.shift[r.stage("Far")] = 1
			a, b := r.spec(r.stage("Make"), 0, 1, 1), r.spec(r.stage("Far"), 0, 1, 1)
			r.start(a, b)
			for _, s := range []task.Spec{a, b} {
				f := r.end(s.ID).Failed
				if f == nil {
					t.Fatalf("%v didn't fail", s.ID)
				}
				if own := s.Stage == r.stage(who); own != (f.Cause == task.CauseUser) {
					t.Errorf("%v failed by the %s: %s", s.ID, f.Cause, f.Message)
				}
			}
		})
	}
}

// A partition whose TaskManager isn't there is lost, and it is told whose it was.
func TestPartitionOfNobody(t *testing.T) {
	r := newRig(t, grouped, options{managers: 2, fns: map[string]bundletest.Fn{"Make": emits("b", numbers(10, 2))}})
	r.run(r.stage("Make"), 2)
	s := r.spec(r.stage("Count"), 0, 1, 1)
	s.Inputs[0].At = []string{"tm-0", "tm-gone"}
	r.start(s)
	f := r.end(s.ID).Failed
	if f == nil || f.Cause != task.CausePartition || len(f.Lost) != 1 || f.Lost[0].Index != 1 || !strings.Contains(f.Message, "tm-gone") {
		t.Errorf("%+v, want partition 1 lost with tm-gone", f)
	}
}

// The keeper of a queue can't be reached: the task fails, by nobody's code.
func TestQueueOfNobody(t *testing.T) {
	p := &splitter{managers: 2}
	r := newSource(t, p, func(c *task.Config) { c.QueueRetry = 100 * time.Millisecond }, span{"x", 0, 10})
	s := r.spec(r.stage("Read.process"), 1, 2, 1)
	s.QueueAt = "tm-gone"
	r.start(s)
	f := r.end(s.ID).Failed
	if f == nil || f.Cause != task.CauseKeeper || !strings.Contains(f.Message, "tm-gone") {
		t.Errorf("%+v, want the keeper's fault, with tm-gone", f)
	}
}

// The keeper was started again: it doesn't begin the queue anew for those who
// ask, since what others have pulled before would be done twice.
func TestQueueIsNotBegunByAsking(t *testing.T) {
	p := &splitter{managers: 2}
	r := newSource(t, p, func(c *task.Config) { c.QueueRetry = 50 * time.Millisecond }, span{"x", 0, 10})
	s := r.spec(r.stage("Read.process"), 1, 2, 1)
	other := s
	other.QueueAt = "tm-0" // which has no task of the stage
	r.start(other)
	if f := r.end(other.ID).Failed; f == nil || f.Cause != task.CauseKeeper {
		t.Errorf("%+v, want the keeper's fault", f)
	}
}

// The keeper of a queue is lost while a task elsewhere has work of it in hand:
// the task fails when it wants to say what became of it.
func TestKeeperIsLost(t *testing.T) {
	begun, lost := make(chan struct{}, 2), make(chan struct{})
	p := &splitter{managers: 2}
	p.emit = func(_ *fnapitest.Call, _ span, i int) error {
		if i == 0 {
			begun <- struct{}{}
			<-lost
		}
		return nil
	}
	r := newSource(t, p, func(c *task.Config) { c.QueueRetry = 200 * time.Millisecond }, span{"x", 0, 10}, span{"y", 0, 10})
	stage := r.stage("Read.process")
	specs := []task.Spec{r.spec(stage, 0, 2, 1), r.spec(stage, 1, 2, 1)}
	r.start(specs...)
	<-begun
	<-begun // each has one
	r.members[0].silence()
	close(lost)
	if f := r.end(specs[1].ID).Failed; f == nil || f.Cause != task.CauseKeeper || !strings.Contains(f.Message, "tm-0") {
		t.Errorf("%+v, want the keeper's fault, with tm-0", f)
	}
	r.tm.Cancel([]task.ID{specs[0].ID}) // it waits for the other to be silent for long enough
	r.end(specs[0].ID)
}
