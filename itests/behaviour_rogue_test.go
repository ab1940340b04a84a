package itests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// rogueVariable makes this program a worker that breaks the rules in the way
// that its value names.
const rogueVariable = "ITEST_ROGUE"

// rogueModes are the ways, and the words that the error of their jobs must hold.
var rogueModes = []struct{ name, want string }{
	{"bytes on control", ""},
	{"bytes on data", ""},
	{"bytes on state", ""},
	{"bytes on logging", ""},
	{"bytes on status", ""},
	{"bytes on calls", "rogue exits"},
	{"answers to nobody", "rogue exits"},
	{"answer of another kind", "response"},
	{"damaged elements", "output of collection"},
	{"endless element", "output of collection"},
	{"elements of nobody", "rogue exits"},
	{"elements of no sink", "no sink"},
	{"state of nobody", "rogue exits"},
	{"residual of nothing", "is no element"},
	{"endless error", "word word"},
	{"stranger", "rogue exits"},
	{"twice", "rogue exits"},
}

// TestRogueWorkers starts workers that send garbage on every stream of the Fn
// API, and workers that speak well and say nonsense. Each fails its own job,
// with a clear error, while another job goes on.
func TestRogueWorkers(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--slots=6")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := waitingJob(t, s, t.TempDir())
	jobs := make([]*job, len(rogueModes))
	for i, mode := range rogueModes {
		boot := script(t, fmt.Sprintf("%s='%s' exec %s \"$@\"", rogueVariable, mode.name, self))
		jobs[i] = submit(t, s, "rogue", smallJob(t, boot, filepath.Join(t.TempDir(), "out")), "restart_strategy=none")
	}
	for i, mode := range rogueModes {
		t.Run(mode.name, func(t *testing.T) {
			j := *jobs[i]
			j.t = t
			j.mustFail(mode.want)
			if text := j.shown().Error; text == "" || len(text) > 100<<10 {
				t.Errorf("the error has %d bytes", len(text))
			} else {
				t.Logf("%.300s", text)
			}
		})
	}
	other.release()
	mustStillWork(t, s)
}

// TestSilentWorker connects and never answers. Its job can be cancelled, and
// the server stopped.
func TestSilentWorker(t *testing.T) {
	need(t, "behaviour")
	s := launch(t, t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	boot := script(t, fmt.Sprintf("ITEST_NOTE=%s %s=silence exec %s \"$@\"", filepath.Join(dir, "silent"), rogueVariable, self))
	var jobs []*job
	for range 2 {
		jobs = append(jobs, submit(t, s.server, "silent", smallJob(t, boot, filepath.Join(dir, "out"))))
	}
	eventually(t, jobLimit, "the worker has a bundle", func() bool { return exists(filepath.Join(dir, "silent")) })
	if _, err := jobs[0].jobs.Cancel(t.Context(), &jobpb.CancelJobRequest{JobId: jobs[0].id}); err != nil {
		t.Fatal(err)
	}
	if state, _ := jobs[0].end(); state != jobpb.JobState_CANCELLED {
		t.Errorf("ended %s, want CANCELLED", state)
	}
	s.stopCleanly(t)
}

// A rogueWorker is this program when it breaks the rules.
type rogueWorker struct {
	mode               string
	ctx                context.Context // carries the worker's id
	endpoints          map[string]string
	control            *grpc.ClientConn
	stream             fnpb.BeamFnControl_ControlClient
	data               fnpb.BeamFnData_DataClient // nil until something is sent
	bundle, descriptor string                     // of the bundle at hand
}

// rogue is the program's main in a worker.
func rogue(mode string) {
	w := &rogueWorker{mode: mode, endpoints: map[string]string{}}
	for _, arg := range os.Args[1:] {
		name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		w.endpoints[name] = value
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.ctx = metadata.AppendToOutgoingContext(ctx, "worker_id", w.endpoints["id"])
	err := w.run()
	fmt.Fprintf(os.Stderr, "rogue exits: %v\n", err)
	os.Exit(7)
}

func dialRogue(addr string) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	return conn
}

func (w *rogueWorker) run() error {
	w.control = dialRogue(w.endpoints["control_endpoint"])
	switch w.mode {
	case "bytes on control":
		return w.bytesOn(w.endpoints["control_endpoint"], "BeamFnControl/Control")
	case "stranger":
		ctx := metadata.AppendToOutgoingContext(context.Background(), "worker_id", "python-1")
		stream, err := fnpb.NewBeamFnControlClient(w.control).Control(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		return fmt.Errorf("a stranger was answered: %w", err)
	}
	var err error
	if w.stream, err = fnpb.NewBeamFnControlClient(w.control).Control(w.ctx); err != nil {
		return err
	}
	for {
		req, err := w.stream.Recv()
		if err != nil {
			return err
		}
		p := req.GetProcessBundle()
		if p == nil {
			_ = w.stream.Send(&fnpb.InstructionResponse{InstructionId: req.GetInstructionId(), Response: &fnpb.InstructionResponse_MonitoringInfos{}})
			continue
		}
		w.bundle, w.descriptor = req.GetInstructionId(), p.GetProcessBundleDescriptorId()
		if err := w.misbehave(); err != nil {
			return err
		}
	}
}

// misbehave does what the mode says with a bundle. nil waits for another one.
func (w *rogueWorker) misbehave() error {
	done := fmt.Errorf("%s", w.mode)
	switch w.mode {
	case "bytes on data":
		return w.bytesOn(w.dataURL(), "BeamFnData/Data")
	case "bytes on state":
		return w.bytesOn(w.endpoints["control_endpoint"], "BeamFnState/State")
	case "bytes on logging":
		return w.bytesOn(w.endpoints["logging_endpoint"], "BeamFnLogging/Logging")
	case "bytes on status":
		return w.bytesOn(w.endpoints["control_endpoint"], "BeamFnWorkerStatus/WorkerStatus")
	case "bytes on calls":
		for endpoint, call := range map[string]string{
			"control_endpoint":   "org.apache.beam.model.fn_execution.v1.BeamFnControl/GetProcessBundleDescriptor",
			"provision_endpoint": "org.apache.beam.model.fn_execution.v1.ProvisionService/GetProvisionInfo",
			"artifact_endpoint":  "org.apache.beam.model.job_management.v1.ArtifactRetrievalService/GetArtifact",
		} {
			var out []byte
			err := dialRogue(w.endpoints[endpoint]).Invoke(w.ctx, "/"+call, garbage, &out, grpc.ForceCodec(rawCodec{}))
			if err == nil {
				return fmt.Errorf("%s took garbage", call)
			}
		}
	case "answers to nobody":
		for i := range 1000 {
			_ = w.stream.Send(&fnpb.InstructionResponse{InstructionId: fmt.Sprintf("nobody-%d", i), Error: "oops"})
			_ = w.stream.Send(&fnpb.InstructionResponse{})
		}
		_ = w.stream.CloseSend()
	case "answer of another kind":
		return w.answer(&fnpb.InstructionResponse{Response: &fnpb.InstructionResponse_ProcessBundleSplit{}})
	case "damaged elements":
		return w.output("", []byte(strings.Repeat("\xff\x00garbage", 1000)))
	case "endless element":
		return w.output("", endless)
	case "elements of nobody":
		w.send(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: "nobody", TransformId: "nobody", Data: garbage}, {}}})
	case "elements of no sink":
		return w.output("nobody", garbage)
	case "state of nobody":
		return w.askForState()
	case "residual of nothing":
		if err := w.output("", nil); err != nil {
			return err
		}
		return w.answer(&fnpb.InstructionResponse{Response: &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleResponse{
			ResidualRoots:  []*fnpb.DelayedBundleApplication{{Application: &fnpb.BundleApplication{TransformId: "nobody", Element: garbage}}, nil},
			MonitoringData: map[string][]byte{"nobody": garbage},
			MonitoringInfos: []*pipepb.MonitoringInfo{{Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1", Payload: garbage},
				{Urn: string(rune(0)), Payload: garbage}, nil},
		}}})
	case "endless error":
		return w.answer(&fnpb.InstructionResponse{Error: strings.Repeat("word ", 1<<20)})
	case "twice":
		again, err := fnpb.NewBeamFnControlClient(dialRogue(w.endpoints["control_endpoint"])).Control(w.ctx)
		if err == nil {
			_, err = again.Recv()
		}
		return fmt.Errorf("a second control stream: %w", err)
	case "silence":
		first(os.Getenv("ITEST_NOTE"))
		return nil
	}
	return done
}

var (
	garbage = []byte("\xff\xff\xff\xff\x0fgarbage\x00\x01\x02")
	// endless begins like a good windowed value whose element has 2^62 bytes.
	endless = []byte("\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x0f\x80\x80\x80\x80\x80\x80\x80\x80\x40xxxx")
)

// answer sends a response for the bundle.
func (w *rogueWorker) answer(r *fnpb.InstructionResponse) error {
	r.InstructionId = w.bundle
	return w.stream.Send(r)
}

// described fetches the bundle's descriptor, and finds a sink of it.
func (w *rogueWorker) described() (url string, sinks []string) {
	d, err := fnpb.NewBeamFnControlClient(w.control).GetProcessBundleDescriptor(w.ctx,
		&fnpb.GetProcessBundleDescriptorRequest{ProcessBundleDescriptorId: w.descriptor})
	if err != nil {
		return "", nil
	}
	for id, tr := range d.GetTransforms() {
		var port fnpb.RemoteGrpcPort
		if !strings.HasPrefix(tr.GetSpec().GetUrn(), "beam:runner:") || proto.Unmarshal(tr.GetSpec().GetPayload(), &port) != nil {
			continue
		}
		url = port.GetApiServiceDescriptor().GetUrl()
		if tr.GetSpec().GetUrn() == "beam:runner:sink:v1" {
			sinks = append(sinks, id)
		}
	}
	return url, sinks
}

func (w *rogueWorker) dataURL() string {
	url, _ := w.described()
	return url
}

// output sends bytes as what the bundle's sinks wrote, or a sink of another
// name, and that it is over, and answers that all is well.
func (w *rogueWorker) output(sink string, bytes []byte) error {
	_, sinks := w.described()
	e := &fnpb.Elements{}
	if sink != "" {
		e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: w.bundle, TransformId: sink, Data: bytes})
	}
	for _, id := range sinks {
		if sink == "" && len(bytes) > 0 {
			e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: w.bundle, TransformId: id, Data: bytes})
		}
		e.Data = append(e.Data, &fnpb.Elements_Data{InstructionId: w.bundle, TransformId: id, IsLast: true})
	}
	w.send(e)
	if w.mode == "residual of nothing" {
		return nil
	}
	return w.answer(&fnpb.InstructionResponse{Response: &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleResponse{}}})
}

// send sends elements on the worker's data stream.
func (w *rogueWorker) send(e *fnpb.Elements) {
	if w.data == nil {
		var err error
		if w.data, err = fnpb.NewBeamFnDataClient(dialRogue(w.dataURL())).Data(w.ctx); err != nil {
			panic(err)
		}
		go func() { // its input is of no interest
			for {
				if _, err := w.data.Recv(); err != nil {
					return
				}
			}
		}()
	}
	if err := w.data.Send(e); err != nil {
		panic(err)
	}
}

// askForState asks for what is not there.
func (w *rogueWorker) askForState() error {
	stream, err := fnpb.NewBeamFnStateClient(w.control).State(w.ctx)
	if err != nil {
		return err
	}
	get := &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: garbage}}
	keys := []*fnpb.StateKey{
		nil,
		{},
		{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: garbage}}},
		{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{TransformId: "nobody", Window: garbage, Key: garbage}}},
		{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{TransformId: "nobody", SideInputId: "../..", Window: garbage}}},
		{Type: &fnpb.StateKey_MultimapKeysSideInput_{}},
		{Type: &fnpb.StateKey_OrderedListUserState_{OrderedListUserState: &fnpb.StateKey_OrderedListUserState{TransformId: "nobody"}}},
	}
	for i, key := range keys {
		for _, bundle := range []string{w.bundle, "nobody", ""} {
			if err := stream.Send(&fnpb.StateRequest{Id: fmt.Sprint(i), InstructionId: bundle, StateKey: key, Request: get}); err != nil {
				return err
			}
			resp, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("the state stream ended: %w", err)
			}
			if resp.GetError() == "" {
				return fmt.Errorf("state request %d of bundle %q was answered", i, bundle)
			}
		}
	}
	return fmt.Errorf("all refused")
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { return nil }
func (rawCodec) Name() string                       { return "proto" }

// bytesOn sends garbage on a stream of the Fn API and waits for its end.
func (w *rogueWorker) bytesOn(addr, method string) error {
	return fmt.Errorf("%s ended: %w", method, sendGarbage(w.ctx, dialRogue(addr), "/org.apache.beam.model.fn_execution.v1."+method))
}

// sendGarbage calls a method with garbage, again and again, and returns how
// that ended.
func sendGarbage(ctx context.Context, conn *grpc.ClientConn, method string) error {
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(ctx, desc, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	for range 100 {
		if err := stream.SendMsg(garbage); err != nil {
			break
		}
	}
	_ = stream.CloseSend()
	var out []byte
	for {
		if err := stream.RecvMsg(&out); err != nil {
			return err
		}
	}
}
