package fnapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
)

// echoEnv tells the test binary to be the echoing worker of BenchmarkEcho, in a
// process of its own, so that the server's CPU time can be told from its.
const echoEnv = "FNAPI_TEST_ECHO"

// An echoOrder is what the worker process is told.
type echoOrder struct {
	ID, Control, Data string
}

// echoMain sends every data message back as it is, and answers each bundle at
// once. (Source and sink have one name, so that nothing needs to be rewritten.)
func echoMain(order string) int {
	var o echoOrder
	if err := json.Unmarshal([]byte(order), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := o.run(metadata.AppendToOutgoingContext(context.Background(), "worker_id", o.ID)); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o *echoOrder) run(ctx context.Context) error {
	conn, err := fnapitest.Dial(o.Control)
	if err != nil {
		return err
	}
	control, err := fnpb.NewBeamFnControlClient(conn).Control(ctx)
	if err != nil {
		return err
	}
	var data grpc.ClientStream
	for {
		req, err := control.Recv()
		if err != nil {
			return err
		}
		if data == nil {
			conn, err := fnapitest.Dial(o.Data)
			if err != nil {
				return err
			}
			desc := &fnpb.BeamFnData_ServiceDesc.Streams[0]
			if data, err = conn.NewStream(ctx, desc, "/"+fnpb.BeamFnData_ServiceDesc.ServiceName+"/Data"); err != nil {
				return err
			}
			go echoData(data)
		}
		err = control.Send(&fnpb.InstructionResponse{
			InstructionId: req.GetInstructionId(),
			Response:      &fnpb.InstructionResponse_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleResponse{}},
		})
		if err != nil {
			return err
		}
	}
}

func echoData(data grpc.ClientStream) {
	for {
		var m fnapitest.Raw
		if data.RecvMsg(&m) != nil || data.SendMsg(m) != nil {
			return
		}
	}
}

// sum is an Output that looks at the size of its chunks.
type sum struct{ bytes int }

func (s *sum) Data(_ string, chunk []byte) error      { s.bytes += len(chunk); return nil }
func (s *sum) Timers(_, _ string, chunk []byte) error { return nil }

// BenchmarkEcho sends bundles of 1 M elements of 100 bytes to a worker process
// and takes them back. It reports the server's share of the CPU time.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprintf("chunk=%dKiB", size>>10), func(b *testing.B) { benchmarkEcho(b, size) })
	}
}

func benchmarkEcho(b *testing.B, chunkSize int) {
	const total = 100 << 20
	w := echoWorker(b)
	b.SetBytes(total)
	b.ReportAllocs()
	before := cpuTime()
	chunk := make([]byte, chunkSize)
	for b.Loop() {
		echoBundle(b, w, chunk, total/chunkSize)
	}
	cpu := cpuTime() - before
	b.ReportMetric(float64(total)*float64(b.N)/1e6/cpu.Seconds(), "MB/cpu-s")
}

// BenchmarkBundle is what a bundle costs besides its elements.
func BenchmarkBundle(b *testing.B) {
	w := echoWorker(b)
	b.ReportAllocs()
	before := cpuTime()
	chunk := make([]byte, 100)
	for b.Loop() {
		echoBundle(b, w, chunk, 1)
	}
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}

// echoWorker starts the worker process.
func echoWorker(b *testing.B) *fnapi.Worker {
	s := serve(b, 1)
	w, err := s.Admit(fnapi.Admission{Name: "echo"})
	if err != nil {
		b.Fatal(err)
	}
	order, err := json.Marshal(echoOrder{ID: w.ID(), Control: w.URL(), Data: w.DataURL(0)})
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), echoEnv+"="+string(order))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		w.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	if err := w.Ready(withTimeout(b)); err != nil {
		b.Fatal(err)
	}
	w.SetDescriptor(fnapitest.Descriptor(fnapitest.Shape{ID: "echo", DataURL: w.DataURL(0)}))
	return w
}

// echoBundle runs one bundle. The worker answers it at once; it ends with the
// last mark, which comes back behind the data.
func echoBundle(b *testing.B, w *fnapi.Worker, chunk []byte, chunks int) {
	ctx := context.Background()
	out := &sum{}
	bundle, err := w.Start(ctx, fnapi.BundleStart{Descriptor: "echo", Sinks: []string{"x"}, Output: out})
	if err != nil {
		b.Fatal(err)
	}
	for range chunks {
		if err := bundle.Send(ctx, "x", chunk); err != nil {
			b.Fatal(err)
		}
	}
	if err := bundle.CloseInput(ctx, []string{"x"}, nil); err != nil {
		b.Fatal(err)
	}
	if _, err := bundle.Wait(ctx); err != nil {
		b.Fatal(err)
	}
	if out.bytes != len(chunk)*chunks {
		b.Fatalf("%d bytes came back of %d", out.bytes, len(chunk)*chunks)
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
