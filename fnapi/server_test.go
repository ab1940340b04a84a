package fnapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
)

// Chunks of all sizes come back whole and in order, from several bundles at
// once, each on its lane.
func TestEcho(t *testing.T) {
	s := serve(t, 3)
	w := connect(t, s, &fnapitest.Harness{})
	chunks := []string{"a", strings.Repeat("b", 20_000), strings.Repeat("c", 3<<20), "d"}
	var bundles sync.WaitGroup
	for n := range 6 {
		start := echo(w, n, "left", "right")
		bundles.Go(func() {
			ctx := withTimeout(t)
			out := &collector{}
			start.Output = out
			b, err := w.Start(ctx, start)
			if err != nil {
				t.Error(err)
				return
			}
			for _, c := range chunks {
				if err := b.Send(ctx, "in", []byte(c)); err != nil {
					t.Error(err)
				}
			}
			if err := b.CloseInput(ctx, []string{"in"}, nil); err != nil {
				t.Error(err)
			}
			if _, err := b.Wait(ctx); err != nil {
				t.Error(err)
			}
			for _, sink := range start.Sinks {
				if got, want := out.all(sink), strings.Join(chunks, "|"); got != want {
					t.Errorf("sink %s has %d bytes, want %d", sink, len(got), len(want))
				}
			}
		})
	}
	bundles.Wait()
}

// Timers go both ways, and each family says when it is done.
func TestTimers(t *testing.T) {
	s := serve(t, 1)
	w := connect(t, s, &fnapitest.Harness{
		ProcessTimers: func(c *fnapitest.Call, transform, family string, chunk []byte) error {
			return c.EmitTimers(transform, family, append([]byte("again "), chunk...))
		},
	})
	families := [][2]string{{"dofn", "soon"}, {"dofn", "late"}}
	w.SetDescriptor(fnapitest.Descriptor(fnapitest.Shape{ID: "d", DataURL: w.DataURL(0), Families: families}))
	ctx := withTimeout(t)
	out := &collector{}
	b, err := w.Start(ctx, fnapi.BundleStart{Descriptor: "d", Timers: families, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SendTimers(ctx, "dofn", "soon", []byte("noon")); err != nil {
		t.Fatal(err)
	}
	if err := b.CloseInput(ctx, nil, families); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if got := out.all("dofn/soon"); got != "again noon" {
		t.Errorf("soon: %q", got)
	}
	if got := out.all("dofn/late"); got != "" {
		t.Errorf("late: %q", got)
	}
}

// Elements inside the request and the response are as good as those on the wire.
func TestEmbedded(t *testing.T) {
	s := serve(t, 1)
	w := connect(t, s, &fnapitest.Harness{Embed: true})
	ctx := withTimeout(t)
	out := &collector{}
	start := echo(w, 0, "out")
	start.Output = out
	start.Embedded = &fnpb.Elements{Data: []*fnpb.Elements_Data{{TransformId: "in", Data: []byte("x"), IsLast: true}}}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if got := out.all("out"); got != "x" {
		t.Errorf("out: %q", got)
	}
}

// A bundle that goes wrong fails by itself, says why, and leaves the worker
// fit for the next one and for the one beside it.
func TestBundleFaults(t *testing.T) {
	var user *fnapi.UserError
	var lost *fnapi.WorkerLostError
	var protocol *fnapi.ProtocolError
	for _, c := range []struct {
		name   string
		behave fnapitest.Behaviour
		target any
		text   string
	}{
		{"refused", fnapitest.Behaviour{Fault: fnapitest.Refuse, Text: "ValueError: no"}, &user, "ValueError: no"},
		{"failed", fnapitest.Behaviour{Fault: fnapitest.Fail, Text: "ValueError: late"}, &user, "ValueError: late"},
		{"garbled data", fnapitest.Behaviour{Fault: fnapitest.GarbleData}, &lost, "data stream"},
		{"garbled answer", fnapitest.Behaviour{Fault: fnapitest.GarbleAnswer}, &protocol, "not that of a bundle"},
		{"stray elements", fnapitest.Behaviour{Fault: fnapitest.Stray}, &protocol, "no such transform"},
		{"doubled answer", fnapitest.Behaviour{Fault: fnapitest.Duplicate}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, 2)
			until := make(chan struct{})
			w := connect(t, s, &fnapitest.Harness{Behave: func(n int, _ string) fnapitest.Behaviour {
				switch n {
				case 0:
					return fnapitest.Behaviour{Fault: fnapitest.Delay, Until: until}
				case 1:
					return c.behave
				}
				return fnapitest.Behaviour{}
			}})
			ctx := withTimeout(t)
			out := &collector{}
			start := echo(w, 1, "out")
			start.Output = out
			beside, err := w.Start(ctx, start)
			if err != nil {
				t.Fatal(err)
			}
			_, err = roundTrip(t, w, 0, "hello")
			switch {
			case c.target == nil && err != nil:
				t.Errorf("error %v, want none", err)
			case c.target != nil && (err == nil || !errors.As(err, c.target) || !strings.Contains(err.Error(), c.text)):
				t.Errorf("error %T %v, want a %T with %q", err, err, c.target, c.text)
			}
			if c.behave.Fault == fnapitest.GarbleData {
				// The worker may use the broken stream once more before it notices.
				_, _ = roundTrip(t, w, 0, "hello")
			}
			works(t, w, 0)

			close(until)
			if err := beside.CloseInput(ctx, []string{"in"}, nil); err != nil {
				t.Error(err)
			}
			if _, err := beside.Wait(ctx); err != nil {
				t.Errorf("the bundle beside it: %v", err)
			}
		})
	}
}

// A worker that dies, or garbles its control stream, takes all its bundles and
// instructions with it, at once, and no other worker's.
func TestWorkerLost(t *testing.T) {
	for _, fault := range []fnapitest.Fault{fnapitest.Die, fnapitest.GarbleStream} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			s := serve(t, 2)
			other := connect(t, s, &fnapitest.Harness{})
			w := connect(t, s, &fnapitest.Harness{Behave: func(n int, _ string) fnapitest.Behaviour {
				if n == 0 {
					return fnapitest.Behaviour{Fault: fnapitest.DropAnswer}
				}
				return fnapitest.Behaviour{Fault: fault}
			}})
			ctx := withTimeout(t)
			start := echo(w, 1, "out")
			start.Output = &collector{}
			beside, err := w.Start(ctx, start)
			if err != nil {
				t.Fatal(err)
			}
			var lost *fnapi.WorkerLostError
			if _, err = roundTrip(t, w, 0, "hello"); !errors.As(err, &lost) {
				t.Errorf("the bundle: %v", err)
			}
			if _, err = beside.Wait(ctx); !errors.As(err, &lost) {
				t.Errorf("the bundle beside it: %v", err)
			}
			<-w.Lost()
			if err := w.Ping(ctx); !errors.As(err, &lost) {
				t.Errorf("Ping: %v", err)
			}
			if _, err := w.Start(ctx, start); !errors.As(err, &lost) {
				t.Errorf("Start: %v", err)
			}
			works(t, other, 0)
		})
	}
}

// Without an identity nobody is heard; an identity opens one control stream.
func TestIdentity(t *testing.T) {
	s := serve(t, 1)
	w := connect(t, s, &fnapitest.Harness{})
	closed, err := s.Admit(fnapi.Admission{})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		name string
		md   metadata.MD
		want codes.Code
	}{
		{"none", metadata.MD{}, codes.Unauthenticated},
		{"two", metadata.Pairs("worker_id", w.ID(), "worker_id", w.ID()), codes.Unauthenticated},
		{"unknown", metadata.Pairs("worker_id", "fake"), codes.Unauthenticated},
		{"withdrawn", metadata.Pairs("worker_id", closed.ID()), codes.Unauthenticated},
		{"used", metadata.Pairs("worker_id", w.ID()), codes.PermissionDenied},
	} {
		conn, err := fnapitest.Dial(w.URL())
		if err != nil {
			t.Fatal(err)
		}
		ctx := metadata.NewOutgoingContext(withTimeout(t), c.md)
		stream, err := fnpb.NewBeamFnControlClient(conn).Control(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != c.want {
			t.Errorf("%s: control: %v, want %v", c.name, err, c.want)
		}
		if c.want == codes.Unauthenticated {
			if _, err := fnpb.NewProvisionServiceClient(conn).GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{}); status.Code(err) != c.want {
				t.Errorf("%s: provision: %v, want %v", c.name, err, c.want)
			}
		}
		conn.Close()
	}
	works(t, w, 0)
}

// A call for a descriptor without an identity is that of the worker whose control
// stream is on the same connection; nobody else is answered, and it isn't either
// when the stream has ended.
func TestIdentityOfConnection(t *testing.T) {
	s := serve(t, 1)
	w, err := s.Admit(fnapi.Admission{Name: "ts"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.SetDescriptor(&fnpb.ProcessBundleDescriptor{Id: "d"})
	ask := func(conn *grpc.ClientConn) codes.Code {
		_, err := fnpb.NewBeamFnControlClient(conn).GetProcessBundleDescriptor(withTimeout(t), &fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: "d"})
		return status.Code(err)
	}
	dial := func() *grpc.ClientConn {
		conn, err := fnapitest.Dial(w.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	own, other := dial(), dial()
	if got := ask(own); got != codes.Unauthenticated {
		t.Errorf("before its control stream: %v", got)
	}
	stream, err := fnpb.NewBeamFnControlClient(own).Control(metadata.NewOutgoingContext(withTimeout(t), metadata.Pairs("worker_id", w.ID())))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Ready(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	if got := ask(own); got != codes.OK {
		t.Errorf("on the connection of its control stream: %v", got)
	}
	if got := ask(other); got != codes.Unauthenticated {
		t.Errorf("on another connection: %v", got)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	if got := ask(own); got != codes.Unauthenticated {
		t.Errorf("after its control stream: %v", got)
	}
}

// An error of Output fails the bundle; what comes later is thrown away.
func TestOutputError(t *testing.T) {
	s := serve(t, 1)
	w := connect(t, s, &fnapitest.Harness{})
	ctx := withTimeout(t)
	full := errors.New("disk full")
	start := echo(w, 0, "out")
	out := &collector{err: full}
	start.Output = out
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_ = b.Send(ctx, "in", []byte("x")) // fails once the bundle has
	}
	if _, err := b.Wait(ctx); !errors.Is(err, full) {
		t.Errorf("Wait: %v", err)
	}
	if got := out.all("out"); got != "x" {
		t.Errorf("Output was called again after its error: %q", got)
	}
	works(t, w, 0)
}

// Split, progress, finalize and short ids are asked for and answered.
func TestInstructions(t *testing.T) {
	s := serve(t, 1)
	asked := 0
	h := &fnapitest.Harness{
		Infos: map[string]*pipepb.MonitoringInfo{"a": {Urn: "beam:metric:a"}},
		Split: func(req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			return &fnpb.ProcessBundleSplitResponse{ChannelSplits: []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{TransformId: req.GetInstructionId()}}}
		},
		Progress: func(req *fnpb.ProcessBundleProgressRequest) *fnpb.ProcessBundleProgressResponse {
			asked++
			return &fnpb.ProcessBundleProgressResponse{MonitoringData: map[string][]byte{"a": []byte(req.GetInstructionId())}}
		},
	}
	w := connect(t, s, h)
	ctx := withTimeout(t)
	start := echo(w, 0, "out")
	start.Output = &collector{}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := b.Progress(ctx); err != nil || string(p.GetMonitoringData()["a"]) != b.ID() || asked != 1 {
		t.Errorf("Progress: %v, %v", p, err)
	}
	if sp, err := b.Split(ctx, nil); err != nil || sp.GetChannelSplits()[0].GetTransformId() != b.ID() {
		t.Errorf("Split: %v, %v", sp, err)
	}
	if err := b.CloseInput(ctx, []string{"in"}, nil); err != nil {
		t.Error(err)
	}
	if _, err := b.Wait(ctx); err != nil {
		t.Error(err)
	}
	if err := b.Finalize(ctx); err != nil || len(h.Finalized()) != 1 {
		t.Errorf("Finalize: %v, %v", h.Finalized(), err)
	}
	if err := w.Ping(ctx); err != nil {
		t.Errorf("Ping: %v", err)
	}
	for range 2 {
		infos, err := w.ResolveShortIDs(ctx, []string{"a", "b"})
		if err != nil || len(infos) != 1 || infos["a"].GetUrn() != "beam:metric:a" {
			t.Errorf("ResolveShortIDs: %v, %v", infos, err)
		}
	}
	if _, err := w.Do(ctx, &fnpb.InstructionRequest{Request: &fnpb.InstructionRequest_SampleData{}}); err == nil {
		t.Error("Do: an instruction that the worker doesn't know has succeeded")
	}
}

// A descriptor must name one lane.
func TestDescriptorPorts(t *testing.T) {
	s := serve(t, 2)
	w := connect(t, s, &fnapitest.Harness{})
	mixed := fnapitest.Descriptor(fnapitest.Shape{ID: "mixed", DataURL: w.DataURL(0), Sources: []string{"in"}})
	mixed.TimerApiServiceDescriptor.Url = w.DataURL(1)
	w.SetDescriptor(mixed)
	w.SetDescriptor(fnapitest.Descriptor(fnapitest.Shape{ID: "far", DataURL: "example.org:1", Sources: []string{"in"}}))
	for id, want := range map[string]string{"mixed": "two endpoints", "far": "none of the lanes", "absent": "no bundle descriptor"} {
		if _, err := w.Start(withTimeout(t), fnapi.BundleStart{Descriptor: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
}

// A server that has ended has ended everything.
func TestServeEnds(t *testing.T) {
	var w *fnapi.Worker
	t.Run("life", func(t *testing.T) {
		s := serve(t, 1)
		w = connect(t, s, &fnapitest.Harness{})
		works(t, w, 0)
	})
	if err := w.Ready(context.Background()); err != nil && !errors.Is(err, fnapi.ErrClosed) {
		t.Error(err)
	}
	if _, err := w.Start(context.Background(), echo(w, 0)); !errors.Is(err, fnapi.ErrClosed) {
		t.Errorf("Start after the end: %v", err)
	}
}
