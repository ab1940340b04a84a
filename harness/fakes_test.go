package harness_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trestle/harness"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestMain makes the test binary a worker when it is started as one.
func TestMain(m *testing.M) {
	args := map[string]string{}
	for _, a := range os.Args[1:] {
		if name, value, ok := strings.Cut(a, "="); ok {
			args[name] = value
		}
	}
	if id := args["--id"]; id != "" {
		playWorker(id, args["--control_endpoint"])
	}
	goleak.VerifyTestMain(m)
}

// playWorker connects as a worker would and stays until the stream ends.
// WORKER_PART says how it misbehaves.
func playWorker(id, control string) {
	part := os.Getenv("WORKER_PART")
	fmt.Println("hello from", part)
	switch part {
	case "broken":
		fmt.Fprintln(os.Stderr, "ModuleNotFoundError: No module named 'apache_beam'")
		os.Exit(3)
	case "silent":
		forever := make(chan os.Signal, 1)
		signal.Notify(forever, syscall.SIGUSR1)
		<-forever
	}
	conn, err := connect(control, id, os.Getpid())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	err = conn()
	fmt.Println("control stream ended:", err)
	os.Exit(0)
}

// connect opens a control stream and returns a function that reads it to its
// end.
func connect(control, id string, pid int) (func() error, error) {
	conn, err := grpc.NewClient(control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "worker_id", id, "pid", fmt.Sprint(pid), "options", os.Getenv("PIPELINE_OPTIONS_FILE"))
	stream, err := fnpb.NewBeamFnControlClient(conn).Control(ctx, grpc.WaitForReady(true))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return func() error {
		defer conn.Close()
		_, err := stream.Recv()
		return err
	}, nil
}

// fakeEndpoints is a Fn API server that knows the control stream and the
// provision service.
type fakeEndpoints struct {
	fnpb.UnimplementedBeamFnControlServer
	fnpb.UnimplementedProvisionServiceServer
	address string

	mu      sync.Mutex
	workers map[string]*fakeWorker
	names   int
}

type fakeWorker struct {
	id            string
	ready, lost   chan struct{}
	closed        chan struct{}
	close         sync.Once
	err           error
	pid, options  string // told by the worker
	admission     harness.Admission
	connectedOnce bool
}

func newEndpoints(t *testing.T) *fakeEndpoints {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEndpoints{address: listener.Addr().String(), workers: map[string]*fakeWorker{}}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	fnpb.RegisterBeamFnControlServer(server, e)
	fnpb.RegisterProvisionServiceServer(server, e)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return e
}

func (e *fakeEndpoints) Addresses() harness.Addresses {
	return harness.Addresses{Control: e.address, Logging: e.address, Artifact: e.address, Provision: e.address}
}

func (e *fakeEndpoints) Admit(a harness.Admission) (harness.Worker, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.names++
	w := &fakeWorker{
		id: fmt.Sprintf("%s-%d-%d", a.Name, os.Getpid(), e.names), admission: a,
		ready: make(chan struct{}), lost: make(chan struct{}), closed: make(chan struct{}),
	}
	e.workers[w.id] = w
	return w, nil
}

func (e *fakeEndpoints) Control(stream fnpb.BeamFnControl_ControlServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	e.mu.Lock()
	w := e.workers[md.Get("worker_id")[0]]
	if w == nil || w.connectedOnce {
		e.mu.Unlock()
		return status.Error(codes.Unauthenticated, "not expected")
	}
	w.connectedOnce = true
	w.pid, w.options = md.Get("pid")[0], md.Get("options")[0]
	e.mu.Unlock()
	// The header tells the worker that it is in.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	close(w.ready)
	defer close(w.lost)
	select {
	case <-stream.Context().Done():
		w.err = errors.New("the control stream broke")
	case <-w.closed:
		w.err = errors.New("closed")
	}
	return nil
}

func (e *fakeEndpoints) GetProvisionInfo(ctx context.Context, _ *fnpb.GetProvisionInfoRequest) (*fnpb.GetProvisionInfoResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.workers[md.Get("worker_id")[0]]
	if w == nil {
		return nil, status.Error(codes.Unauthenticated, "not expected")
	}
	return &fnpb.GetProvisionInfoResponse{Info: &fnpb.ProvisionInfo{PipelineOptions: w.admission.Options}}, nil
}

func (w *fakeWorker) ID() string { return w.id }
func (w *fakeWorker) Ready(ctx context.Context) error {
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (w *fakeWorker) Lost() <-chan struct{} { return w.lost }
func (w *fakeWorker) Err() error {
	select {
	case <-w.lost:
		return w.err
	default:
		return nil
	}
}
func (w *fakeWorker) Close() { w.close.Do(func() { close(w.closed) }) }

// fakeArtifacts serves files by the path in their payload.
type fakeArtifacts struct{}

func (fakeArtifacts) Open(_ context.Context, _ string, a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	var file pipepb.ArtifactFilePayload
	if err := proto.Unmarshal(a.GetTypePayload(), &file); err != nil {
		return nil, err
	}
	return os.Open(file.GetPath())
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

const multiCore = "beam:protocol:multi_core_bundle_processing:v1"

// processEnv runs this test binary as a worker that plays a part.
func processEnv(part string, capabilities ...string) *pipepb.Environment {
	return &pipepb.Environment{
		Urn:          "beam:env:process:v1",
		Payload:      marshal(&pipepb.ProcessPayload{Command: os.Args[0], Env: map[string]string{"WORKER_PART": part}}),
		Capabilities: capabilities,
	}
}

func externalEnv(address string, capabilities ...string) *pipepb.Environment {
	return &pipepb.Environment{
		Urn:          "beam:env:external:v1",
		Payload:      marshal(&pipepb.ExternalPayload{Endpoint: &pipepb.ApiServiceDescriptor{Url: address}}),
		Capabilities: capabilities,
	}
}

func dockerEnv(image string, dependencies ...*pipepb.ArtifactInformation) *pipepb.Environment {
	return &pipepb.Environment{
		Urn:          "beam:env:docker:v1",
		Payload:      marshal(&pipepb.DockerPayload{ContainerImage: image}),
		Capabilities: []string{multiCore, "beam:version:sdk_base:go:test"},
		Dependencies: dependencies,
	}
}

// newPool makes a pool that is closed, and must then have left nothing on disk,
// when the test ends.
func newPool(t *testing.T, e harness.Endpoints, o harness.Options) *harness.Pool {
	t.Helper()
	o.Dir = t.TempDir()
	if o.Engine == "" {
		o.Engine = "no-such-engine"
	}
	p, err := harness.New(e, fakeArtifacts{}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		left, err := os.ReadDir(o.Dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left on disk: %v %v", left, err)
		}
	})
	return p
}

func acquire(t *testing.T, p *harness.Pool, r harness.Request) *harness.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := p.Acquire(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func worker(l *harness.Lease) *fakeWorker { return l.Worker.(*fakeWorker) }
