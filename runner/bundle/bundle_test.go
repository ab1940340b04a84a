package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/metrics"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// bad makes the first n bundles of all workers together misbehave.
func bad(n int, b fnapitest.Behaviour) func(int, *fnapitest.Harness) {
	var count atomic.Int64
	return func(_ int, h *fnapitest.Harness) {
		h.Behave = func(int, string) fnapitest.Behaviour {
			if count.Add(1) <= int64(n) {
				return b
			}
			return fnapitest.Behaviour{}
		}
	}
}

// However a worker fails a bundle, the next try's output is there once, and
// nothing of the failed try's.
func TestFailedTriesLeaveNothing(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fault   fnapitest.Fault
		workers int // that it takes
	}{
		{"dies", fnapitest.Die, 2},
		{"refuses", fnapitest.Refuse, 1},
		{"fails at the end", fnapitest.Fail, 1},
		{"garbles its data stream", fnapitest.GarbleData, 0},
		{"garbles its control stream", fnapitest.GarbleStream, 2},
		{"answers another question", fnapitest.GarbleAnswer, 0},
		{"sends data for no sink", fnapitest.Stray, 0},
		{"says all twice", fnapitest.Duplicate, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, options{worker: bad(1, fnapitest.Behaviour{Fault: tt.fault, Text: "no"})})
			for _, text := range []string{"a:1 b:2 c:3", "d:4"} {
				if _, err := r.run(text); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.output(); got != "a:1 b:2 c:3 d:4" {
				t.Errorf("output %q", got)
			}
			if n := r.workers.Started(); tt.workers > 0 && n != tt.workers {
				t.Errorf("%d workers were started, want %d", n, tt.workers)
			}
			if len(r.committed) != 2 {
				t.Errorf("metrics were committed %d times, want 2", len(r.committed))
			}
		})
	}
}

// A worker dies after it has sent all of its output: that of the lost try must
// not be seen.
func TestDeathAfterOutput(t *testing.T) {
	r := newRig(t, options{worker: func(n int, h *fnapitest.Harness) {
		if n == 0 {
			h.Finish = func(*fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
				h.Die()
				return nil, errors.New("dead")
			}
		}
	}})
	if _, err := r.run("a:1 b:2"); err != nil {
		t.Fatal(err)
	}
	if got := r.output(); got != "a:1 b:2" {
		t.Errorf("output %q", got)
	}
	if len(r.states) != 2 || !r.states[0].aborted || !r.states[1].committed {
		t.Error("the state of the failed try must be aborted, that of the next committed")
	}
}

// Tries are bounded, by kind of failure, and the last error says whose fault it
// was.
func TestTriesAreBounded(t *testing.T) {
	t.Run("user", func(t *testing.T) {
		var tries atomic.Int64
		r := newRig(t, options{tries: 3, fn: func(*bundletest.Call, *coders.Value) error {
			tries.Add(1)
			return errors.New("division by zero")
		}})
		_, err := r.run("a:1")
		var user *fnapi.UserError
		if !errors.As(err, &user) || !strings.Contains(err.Error(), "division by zero") {
			t.Errorf("%v; want the user's error", err)
		}
		if n := tries.Load(); n != 3 {
			t.Errorf("%d tries, want 3", n)
		}
	})
	t.Run("worker", func(t *testing.T) {
		r := newRig(t, options{tries: 3, worker: bad(1000, fnapitest.Behaviour{Fault: fnapitest.Die})})
		_, err := r.run("a:1")
		var lost *fnapi.WorkerLostError
		if !errors.As(err, &lost) || !strings.Contains(err.Error(), "rest in peace") {
			t.Errorf("%v; want a lost worker and what it said", err)
		}
		if n := r.workers.Started(); n != 3 {
			t.Errorf("%d workers were started, want 3", n)
		}
	})
}

// Output that can't be cut is the worker's fault: the bundle is tried again, and
// after some tries given up with an error that says so.
func TestGarbageOutput(t *testing.T) {
	elem := bundletest.Element(0, "k", "value")
	huge := append(coders.AppendHeader(nil, 0, 1, nil, coders.NoFiring), bytes.Repeat([]byte{0xff}, 20)...)
	for _, tt := range []struct {
		name  string
		chunk []byte
	}{
		{"ends inside an element", elem[:len(elem)-1]},
		{"ends inside an element after a whole one", append(elem[:len(elem):len(elem)], elem[:5]...)},
		{"a length beyond all bounds", huge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var tries atomic.Int64
			r := newRig(t, options{tries: 2, fn: func(c *bundletest.Call, _ *coders.Value) error {
				tries.Add(1)
				return c.Emit("d", tt.chunk)
			}})
			start := time.Now()
			_, err := r.run("a:1")
			var broke *fnapi.ProtocolError
			if !errors.As(err, &broke) {
				t.Errorf("%v; want a protocol error", err)
			}
			if n := tries.Load(); n != 2 {
				t.Errorf("%d tries, want 2", n)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("it took %v: who waits for the death of a worker that lives?", d)
			}
		})
	}
}

// An SDK may cut its chunks anywhere.
func TestChunksCutAnywhere(t *testing.T) {
	text := "a:1 b:22 longer-key:" + strings.Repeat("x", 300) + " c: :d"
	all := bundletest.Chunk(text)
	for _, size := range []int{1, 2, 3, 7, 13, 14, 50, len(all) - 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t, options{worker: func(_ int, h *fnapitest.Harness) {
				h.Process = func(c *fnapitest.Call, _ string, chunk []byte) error {
					for len(chunk) > 0 {
						n := min(size, len(chunk))
						if err := c.Emit(c.Sinks[0], chunk[:n]); err != nil {
							return err
						}
						chunk = chunk[n:]
					}
					return nil
				}
			}})
			res, err := r.run(text)
			if err != nil {
				t.Fatal(err)
			}
			if res.OutElements != 5 || res.OutBytes != int64(len(all)) {
				t.Errorf("counted %d elements and %d bytes, want 5 and %d", res.OutElements, res.OutBytes, len(all))
			}
			want := strings.Fields(text)
			if got := r.output(); len(strings.Fields(got)) != len(want) || len(got) != len(text) {
				t.Errorf("output %q, want %q in some order", got, text)
			}
		})
	}
}

// The input of a bundle is more than the worker takes: when the worker dies or
// fails, the sender must not stay.
func TestSendIsFreedByFailure(t *testing.T) {
	for _, how := range []string{"dies", "fails", "succeeds early"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, options{tries: 1, worker: func(_ int, h *fnapitest.Harness) {
				h.Process = func(c *fnapitest.Call, _ string, _ []byte) error {
					switch how {
					case "dies":
						h.Die()
					case "succeeds early":
						return nil
					}
					return errors.New("enough")
				}
			}})
			in := &bundle.Input{}
			for range 200 { // 50 MB: more than all windows on the way
				in.Chunks = append(in.Chunks, bundletest.Element(0, "k", strings.Repeat("x", 256<<10)))
			}
			done := make(chan error, 1)
			go func() {
				_, err := r.runInput(in)
				done <- err
			}()
			select {
			case err := <-done:
				if (err == nil) != (how == "succeeds early") {
					t.Errorf("%v", err)
				}
			case <-time.After(patience / 2):
				t.Fatal("the bundle hangs")
			}
		})
	}
}

// A bundle that is cancelled while its worker says nothing ends at once, with
// the reason, though the worker may go on.
func TestCancel(t *testing.T) {
	for _, fault := range []fnapitest.Fault{fnapitest.Delay, fnapitest.DropLast, fnapitest.DropAnswer} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			until := make(chan struct{})
			defer close(until)
			began := make(chan struct{}, 10)
			r := newRig(t, options{worker: func(_ int, h *fnapitest.Harness) {
				h.Behave = func(int, string) fnapitest.Behaviour {
					began <- struct{}{}
					return fnapitest.Behaviour{Fault: fault, Until: until}
				}
			}})
			reason := errors.New("the user wants no more")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-began
				cancel(reason)
			}()
			start := time.Now()
			_, err := r.runner.Run(ctx, &bundle.Input{Chunks: [][]byte{bundletest.Chunk("a:1")}, Elements: 1})
			if !errors.Is(err, reason) {
				t.Errorf("%v, want the reason of the cancellation", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}

// A worker that never answers progress requests holds nothing up.
func TestDeafToProgress(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a second: progress is asked for once a second")
	}
	asked := make(chan struct{})
	r := newRig(t, options{worker: func(_ int, h *fnapitest.Harness) {
		h.Before = func(req *fnpb.InstructionRequest) bool {
			if req.GetProcessBundleProgress() != nil {
				close(asked)
				return false
			}
			return true
		}
		h.Process = func(c *fnapitest.Call, _ string, chunk []byte) error {
			<-asked
			return c.Emit(c.Sinks[0], chunk)
		}
	}})
	r.runner.Attempted = func(int, *metrics.Set) {}
	if _, err := r.run("a:1"); err != nil {
		t.Fatal(err)
	}
}

// A worker dies when it is asked what its metrics' short ids mean: its bundle
// must not be committed and then run again.
func TestDeathBeforeShortIDsAreKnown(t *testing.T) {
	info := &pipepb.MonitoringInfo{
		Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1",
		Labels: map[string]string{"PTRANSFORM": "Work", "NAMESPACE": "n", "NAME": "count"},
	}
	r := newRig(t, options{worker: func(n int, h *fnapitest.Harness) {
		h.Infos = map[string]*pipepb.MonitoringInfo{"7": info}
		h.Finish = func(*fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
			return &fnpb.ProcessBundleResponse{MonitoringData: map[string][]byte{"7": {1}}}, nil
		}
		h.Before = func(req *fnpb.InstructionRequest) bool {
			if n == 0 && req.GetMonitoringInfos() != nil {
				h.Die()
			}
			return true
		}
	}})
	if _, err := r.run("a:1"); err != nil {
		t.Fatal(err)
	}
	if got := r.output(); got != "a:1" {
		t.Errorf("output %q: it must be there once", got)
	}
	if len(r.committed) != 1 {
		t.Errorf("metrics were committed %d times", len(r.committed))
	}
}

// A bundle is finalized after its commit, and no failed try is.
func TestFinalizeAfterCommit(t *testing.T) {
	var r *rig
	var early atomic.Bool
	r = newRig(t, options{worker: func(n int, h *fnapitest.Harness) {
		h.Finish = func(*fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
			if n == 0 {
				return nil, errDead(h)
			}
			return &fnpb.ProcessBundleResponse{RequiresFinalization: true}, nil
		}
		h.Before = func(req *fnpb.InstructionRequest) bool {
			if req.GetFinalizeBundle() != nil && !r.states[1].committed {
				early.Store(true)
			}
			return true
		}
	}})
	if _, err := r.run("a:1"); err != nil {
		t.Fatal(err)
	}
	if early.Load() {
		t.Error("the bundle was finalized before its commit")
	}
	if a, b := len(r.workers.Harness(0).Finalized()), len(r.workers.Harness(1).Finalized()); a != 0 || b != 1 {
		t.Errorf("finalized %d and %d bundles, want 0 and 1", a, b)
	}
}

func errDead(h *fnapitest.Harness) error {
	h.Die()
	return errors.New("dead")
}

// What an SDK takes inside the request ends with the last marks of its timer
// families too, or it refuses the bundle.
func TestEmbeddedInput(t *testing.T) {
	for _, pipeline := range []string{simple, timed} {
		r := newRig(t, options{
			pipeline: pipeline,
			edit:     []func(*pipepb.Pipeline){bundletest.Capable(fnapi.CapabilityRequestEmbedding)},
			worker: func(_ int, h *fnapitest.Harness) {
				h.Before = func(req *fnpb.InstructionRequest) bool {
					if p := req.GetProcessBundle(); p != nil {
						for _, x := range p.GetElements().GetTimers() {
							if !x.GetIsLast() {
								t.Error("timers without a last mark")
							}
						}
						if n := len(p.GetElements().GetTimers()); (n == 1) != (pipeline == timed) {
							t.Errorf("last marks of %d timer families are in the request", n)
						}
						if d := p.GetElements().GetData(); len(d) != 1 || !d[0].GetIsLast() {
							t.Errorf("embedded data: %v", d)
						}
					}
					return true
				}
			},
		})
		if _, err := r.run("a:1 b:2"); err != nil {
			t.Fatal(err)
		}
		if got := r.output(); got != "a:1 b:2" {
			t.Errorf("output %q", got)
		}
	}
}

// Timers that can't be cut fail their bundle before it commits.
func TestGarbageTimers(t *testing.T) {
	var tries atomic.Int64
	r := newRig(t, options{pipeline: timed, worker: func(_ int, h *fnapitest.Harness) {
		h.Process = func(c *fnapitest.Call, _ string, chunk []byte) error {
			if tries.Add(1) == 1 {
				return c.EmitTimers("Work", "t", []byte{1, 'k', 0, 0})
			}
			return c.Emit(c.Sinks[0], chunk)
		}
	}})
	if _, err := r.run("a:1"); err != nil {
		t.Fatal(err)
	}
	if got := r.output(); got != "a:1" {
		t.Errorf("output %q", got)
	}
}
