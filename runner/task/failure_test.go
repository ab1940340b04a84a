package task_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/fusion"
	"trestle/runner/task"
)

// plansFunc is a task.Plans.
type plansFunc func(ctx context.Context) (*fusion.Plan, error)

func (f plansFunc) Plan(ctx context.Context, _, _ string) (*fusion.Plan, error) { return f(ctx) }
func (plansFunc) BundleElements(string) int                                     { return 0 }
func (plansFunc) BundleTime(string) time.Duration                               { return 0 }

// A plan that could not be read once, or whose reader was cancelled, is read
// again for the next task.
func TestPlanIsReadAgain(t *testing.T) {
	var r *rig
	var asked atomic.Int64
	reading := make(chan struct{}, 1)
	r = newRig(t, grouped, options{
		fns: map[string]bundletest.Fn{"Make": emits("b", "a:1")},
		plans: plansFunc(func(ctx context.Context) (*fusion.Plan, error) {
			switch asked.Add(1) {
			case 1:
				reading <- struct{}{}
				<-ctx.Done()
				return nil, context.Cause(ctx)
			case 2:
				return nil, errors.New("the disk is tired")
			}
			return r.plan, nil
		}),
	})
	first := r.spec("s1", 0, 1, 1)
	r.start(first)
	<-reading
	r.tm.Cancel([]task.ID{first.ID})
	if rep := r.end(first.ID); rep.Failed == nil || rep.Failed.Cause != task.CauseCanceled {
		t.Errorf("%+v, want canceled", rep)
	}
	second := r.spec("s1", 0, 1, 2)
	r.start(second)
	if rep := r.end(second.ID); rep.Failed == nil || rep.Failed.Cause != task.CauseRunner {
		t.Errorf("%+v, want the disk's error", rep)
	}
	third := r.spec("s1", 0, 1, 3)
	r.start(third)
	r.finish(third)
	if got := r.output("b"); got != "a:1" {
		t.Errorf("output %q", got)
	}
}

// What a missing partition and a failed worker are called.
func TestCauses(t *testing.T) {
	t.Run("partition", func(t *testing.T) {
		r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{"Make": emits("b", numbers(10, 2))}})
		r.run(r.stage("Make"), 1)
		r.tm.Release("job", "d1", []task.Partition{{Index: 0, Attempt: 1}})
		s := r.spec(r.stage("Count"), 0, 1, 1)
		r.start(s)
		f := r.end(s.ID).Failed
		if f == nil || f.Cause != task.CausePartition || len(f.Lost) != 1 || f.Lost[0].Dataset != "d1" || f.Lost[0].Attempt != 1 {
			t.Errorf("%+v, want the lost partition d1 0#1", f)
		}
	})
	t.Run("disk", func(t *testing.T) {
		r := newRig(t, grouped, options{plans: plansFunc(func(context.Context) (*fusion.Plan, error) {
			return nil, &os.PathError{Op: "write", Path: "plan", Err: syscall.ENOSPC}
		})})
		s := r.spec("s1", 0, 1, 1)
		r.start(s)
		if f := r.end(s.ID).Failed; f == nil || f.Cause != task.CauseDisk || !strings.Contains(f.Message, "no space left") {
			t.Errorf("%+v, want the disk's fault", f)
		}
	})
	t.Run("worker", func(t *testing.T) {
		r := newRig(t, grouped, options{worker: func(_ int, h *fnapitest.Harness) {
			h.Behave = func(int, string) fnapitest.Behaviour { return fnapitest.Behaviour{Fault: fnapitest.Die} }
		}})
		s := r.spec("s1", 0, 1, 1)
		r.start(s)
		if f := r.end(s.ID).Failed; f == nil || f.Cause != task.CauseWorker {
			t.Errorf("%+v, want the worker's fault", f)
		}
	})
	t.Run("user", func(t *testing.T) {
		r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{
			"Make": func(*bundletest.Call, *coders.Value) error { return errors.New("boom [while running 'Make']") },
		}})
		s := r.spec("s1", 0, 1, 1)
		r.start(s)
		if f := r.end(s.ID).Failed; f == nil || f.Cause != task.CauseUser || !strings.HasPrefix(f.Message, `transform "Make": boom`) {
			t.Errorf("%+v, want the user's fault", f)
		}
	})
}

// A task ends promptly when it is cancelled, wherever it is, and leaves nothing
// (the rig looks at goroutines, budget, leases and files).
func TestCancel(t *testing.T) {
	type phase struct {
		name  string
		stage string
		// block is the user code that never ends by itself.
		block func(began func(), until <-chan struct{}) options
	}
	behave := func(fault fnapitest.Fault) func(func(), <-chan struct{}) options {
		return func(began func(), until <-chan struct{}) options {
			return options{worker: func(_ int, h *fnapitest.Harness) {
				h.Behave = func(_ int, descriptor string) fnapitest.Behaviour {
					if !strings.HasPrefix(descriptor, "s2/") {
						return fnapitest.Behaviour{}
					}
					began()
					return fnapitest.Behaviour{Fault: fault, Until: until}
				}
			}}
		}
	}
	for _, p := range []phase{
		{"before the bundle begins", "Count", behave(fnapitest.Delay)},
		{"when the last mark is missing", "Count", behave(fnapitest.DropLast)},
		{"when the answer is missing", "Count", behave(fnapitest.DropAnswer)},
		{"inside user code", "Count", func(began func(), until <-chan struct{}) options {
			return options{fns: map[string]bundletest.Fn{"Count": func(c *bundletest.Call, v *coders.Value) error {
				began()
				if err := c.Emit("d", bundletest.Element(0, "early", "output")); err != nil {
					return err
				}
				<-until
				return nil
			}}}
		}},
	} {
		t.Run(p.name, func(t *testing.T) {
			until, began := make(chan struct{}), make(chan struct{}, 100)
			o := p.block(func() { began <- struct{}{} }, until)
			defer close(until)
			if o.fns == nil {
				o.fns = map[string]bundletest.Fn{}
			}
			o.fns["Make"] = emits("b", numbers(2000, 500))
			o.config = func(c *task.Config) { c.BundleElements = 10 }
			r := newRig(t, grouped, o)
			r.run(r.stage("Make"), 1)
			s := r.spec(r.stage(p.stage), 0, 1, 1)
			r.start(s)
			<-began
			r.tm.Cancel([]task.ID{s.ID})
			if f := r.end(s.ID).Failed; f == nil || f.Cause != task.CauseCanceled {
				t.Errorf("%+v, want canceled", f)
			}
			again := r.spec(r.stage(p.stage), 0, 1, 2)
			again.Inputs[0].Lo = again.Inputs[0].Hi // nothing to do: the slot and its lanes are free
			r.start(again)
			r.finish(again)
		})
	}
}

// Stopping the TaskManager stops its tasks.
func TestStop(t *testing.T) {
	began := make(chan struct{}, 10)
	r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{
		"Make": func(c *bundletest.Call, _ *coders.Value) error {
			began <- struct{}{}
			<-c.Context().Done()
			return nil
		},
	}})
	r.start(r.spec("s1", 0, 1, 1))
	<-began
}
