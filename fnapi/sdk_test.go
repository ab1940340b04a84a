package fnapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/util/grpcx"
	"google.golang.org/protobuf/proto"

	"trestle/fnapi"
)

// goSDKEnv tells the test binary to be a worker of Beam's Go SDK.
const goSDKEnv = "FNAPI_TEST_GOSDK"

func goSDKMain(order string) int {
	var o echoOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx := grpcx.WriteWorkerID(context.Background(), o.ID)
	err := harness.MainWithOptions(ctx, o.Control, o.Control, harness.Options{
		RunnerCapabilities: []string{fnapi.CapabilityShortIDs}, StatusEndpoint: o.Control,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const pythonWorker = `
import json, os, sys
o = json.loads(sys.argv[1])
os.environ['WORKER_ID'] = o['ID'] # read while apache_beam is imported
from apache_beam.runners.worker.sdk_worker import SdkHarness
SdkHarness(o['Control'], worker_id=o['ID'], status_address=o['Control']).run()
`

// Real SDK workers run bundles of a source and a sink: several at once, over
// chunks and over nothing at all, and end in peace when they are withdrawn.
// Python is tried where TRESTLE_TEST_PYTHON names an interpreter with
// apache-beam.
func TestRealSDK(t *testing.T) {
	for _, sdk := range []string{"go", "python"} {
		t.Run(sdk, func(t *testing.T) {
			var cmd *exec.Cmd
			switch python := os.Getenv("TRESTLE_TEST_PYTHON"); {
			case sdk == "go":
				cmd = exec.Command(os.Args[0])
			case python == "":
				t.Skip("TRESTLE_TEST_PYTHON names no interpreter")
			default:
				cmd = exec.Command(python, "-c", pythonWorker)
			}
			testRealSDK(t, sdk, cmd)
		})
	}
}

func testRealSDK(t *testing.T, sdk string, cmd *exec.Cmd) {
	s := serve(t, 2)
	w, err := s.Admit(fnapi.Admission{Name: sdk})
	if err != nil {
		t.Fatal(err)
	}
	order, err := json.Marshal(echoOrder{ID: w.ID(), Control: w.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if sdk == "python" {
		cmd.Args = append(cmd.Args, string(order))
	}
	var errs bytes.Buffer
	cmd.Env = append(os.Environ(), goSDKEnv+"="+string(order))
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx := withTimeout(t)
	if err := w.Ready(ctx); err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}

	for lane := range 2 {
		for _, elements := range []int{0, 1, 100_000} {
			runIdentity(t, w, lane, elements)
		}
	}
	if err := w.Ping(ctx); err != nil {
		t.Errorf("Ping: %v", err)
	}
	if text, err := w.Status(ctx); err != nil || text == "" {
		t.Errorf("Status: %q, %v", text, err)
	}
	// A descriptor that no SDK can run fails its bundle, with words.
	w.SetDescriptor(&fnpb.ProcessBundleDescriptor{Id: "bad", Transforms: map[string]*pipepb.PTransform{
		"x": {Spec: &pipepb.FunctionSpec{Urn: "beam:transform:unheard_of:v1"}},
	}})
	b, err := w.Start(ctx, fnapi.BundleStart{Descriptor: "bad"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(ctx); err == nil || !strings.Contains(err.Error(), "unheard_of") {
		t.Errorf("a bad descriptor: %v", err)
	}
	w.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the worker's end: %v\n%s", err, &errs)
	}
}

// runIdentity runs a bundle that only hands on its input.
func runIdentity(t *testing.T, w *fnapi.Worker, lane, elements int) {
	t.Helper()
	ctx := withTimeout(t)
	d := identity(fmt.Sprintf("identity-%d", lane), w.DataURL(lane))
	w.SetDescriptor(d)
	out := &collector{}
	b, err := w.Start(ctx, fnapi.BundleStart{Descriptor: d.GetId(), Sinks: []string{"sink"}, Output: out})
	if err != nil {
		t.Fatal(err)
	}
	var all, chunk []byte
	for n := range elements {
		chunk = appendWindowed(chunk, fmt.Sprintf("element %d", n))
		if len(chunk) > 64<<10 || n == elements-1 {
			if err := b.Send(ctx, "source", chunk); err != nil {
				t.Fatal(err)
			}
			all = append(all, chunk...)
			chunk = chunk[:0]
		}
	}
	if err := b.CloseInput(ctx, []string{"source"}, nil); err != nil {
		t.Fatal(err)
	}
	resp, err := b.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(out.all("sink"), "|", ""); got != string(all) {
		t.Errorf("lane %d: %d bytes came out of %d elements, %d went in", lane, len(got), elements, len(all))
	}
	var ids []string
	for id := range resp.GetMonitoringData() {
		ids = append(ids, id)
	}
	infos, err := w.ResolveShortIDs(ctx, ids)
	if err != nil || len(infos) != len(ids) || len(ids) == 0 {
		t.Errorf("%d short ids of %v: %v", len(infos), ids, err)
	}
}

// appendWindowed appends s in the global window, at the epoch, as bytes.
func appendWindowed(b []byte, s string) []byte {
	b = append(b, 0x80, 0, 0, 0, 0, 0, 0, 0) // timestamp, sign bit flipped
	b = append(b, 0, 0, 0, 1)                // one window, of no bytes
	b = append(b, 0x0f, byte(len(s)))        // pane
	return append(b, s...)
}

// identity is a descriptor that joins a source to a sink.
func identity(id, url string) *fnpb.ProcessBundleDescriptor {
	port, err := proto.Marshal(&fnpb.RemoteGrpcPort{
		ApiServiceDescriptor: &pipepb.ApiServiceDescriptor{Url: url}, CoderId: "windowed",
	})
	if err != nil {
		panic(err)
	}
	coder := func(urn string, parts ...string) *pipepb.Coder {
		return &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: urn}, ComponentCoderIds: parts}
	}
	return &fnpb.ProcessBundleDescriptor{
		Id: id,
		Transforms: map[string]*pipepb.PTransform{
			"source": {
				UniqueName: "source", Spec: &pipepb.FunctionSpec{Urn: "beam:runner:source:v1", Payload: port},
				Outputs: map[string]string{"i0": "p"},
			},
			"sink": {
				UniqueName: "sink", Spec: &pipepb.FunctionSpec{Urn: "beam:runner:sink:v1", Payload: port},
				Inputs: map[string]string{"i0": "p"},
			},
		},
		Pcollections: map[string]*pipepb.PCollection{"p": {
			UniqueName: "p", CoderId: "bytes", WindowingStrategyId: "global", IsBounded: pipepb.IsBounded_BOUNDED,
		}},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{"global": {
			WindowFn:      &pipepb.FunctionSpec{Urn: "beam:window_fn:global_windows:v1"},
			WindowCoderId: "global",
		}},
		Coders: map[string]*pipepb.Coder{
			"bytes":    coder("beam:coder:bytes:v1"),
			"global":   coder("beam:coder:global_window:v1"),
			"windowed": coder("beam:coder:windowed_value:v1", "bytes", "global"),
		},
	}
}
