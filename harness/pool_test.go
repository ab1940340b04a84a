package harness_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"trestle/harness"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

func request(job string, env *pipepb.Environment) harness.Request {
	return harness.Request{Job: job, EnvironmentID: "env", Environment: env}
}

func mustBeGone(t *testing.T, w *fakeWorker) {
	t.Helper()
	pid, err := strconv.Atoi(w.pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("worker process %d is still there: %v", pid, err)
	}
}

// An SDK that uses all cores has one process, and each lease a lane of its own.
func TestOneProcessManyLanes(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 4})
	r := request("job", processEnv("good", multiCore))
	a, b := acquire(t, p, r), acquire(t, p, r)
	if a.Worker != b.Worker || a.Lane != 0 || b.Lane != 1 {
		t.Errorf("lanes %d and %d, same worker: %v", a.Lane, b.Lane, a.Worker == b.Worker)
	}
	a.Release()
	a.Release()
	if c := acquire(t, p, r); c.Lane != 0 {
		t.Errorf("lane %d, want the one given back", c.Lane)
	}
	p.StopJob("job")
	mustBeGone(t, worker(b))
	if _, err := os.Stat(worker(b).options); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the worker's directory is still there: %v", err)
	}
}

// An SDK that uses one core has a process for each; a second lease of one
// process is given only when all are busy.
func TestSeveralProcesses(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 2, Lanes: 2})
	r := request("job", processEnv("good"))
	if err := p.Warm(r); err != nil {
		t.Fatal(err)
	}
	a, b := acquire(t, p, r), acquire(t, p, r)
	if a.Worker == b.Worker || a.Lane != 0 || b.Lane != 0 {
		t.Errorf("two leases must be two workers' first lanes")
	}
	c := acquire(t, p, r)
	if c.Lane != 1 {
		t.Errorf("the third lease has lane %d", c.Lane)
	}
	d := acquire(t, p, r)
	if d.Worker == c.Worker {
		t.Errorf("the fourth lease makes one worker busier than the other")
	}
	// All lanes are taken: the fifth waits for a release.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Acquire(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("fifth lease: %v", err)
	}
	got := make(chan *harness.Lease, 1)
	go func() {
		l, _ := p.Acquire(t.Context(), r)
		got <- l
	}()
	b.Release()
	if l := <-got; l == nil || l.Worker != b.Worker {
		t.Errorf("the freed lane was not given out")
	}
}

// Of workers that are equally busy a request gets the one that it names.
func TestHadWorker(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 3, Lanes: 2})
	r := request("job", processEnv("good"))
	if err := p.Warm(r); err != nil {
		t.Fatal(err)
	}
	a, b, c := acquire(t, p, r), acquire(t, p, r), acquire(t, p, r)
	b.Release()
	c.Release()
	for _, had := range []*harness.Lease{b, c, b} {
		r.Had = had.Worker.ID()
		l := acquire(t, p, r)
		if l.Worker != had.Worker {
			t.Errorf("another worker than the one asked for, which was idle")
		}
		l.Release()
	}
	r.Had = a.Worker.ID()
	if l := acquire(t, p, r); l.Worker == a.Worker {
		t.Errorf("the worker asked for, though it was busy and others were not")
	}
}

func TestStartErrors(t *testing.T) {
	tests := []struct {
		name string
		env  *pipepb.Environment
		opts harness.Options
		want []string
	}{
		{"exit", processEnv("broken"), harness.Options{},
			[]string{`environment "env"`, "ended before it had connected: exit status 3", "hello from broken", "No module named 'apache_beam'"}},
		{"silence", processEnv("silent"), harness.Options{StartTimeout: 300 * time.Millisecond, MaxRestarts: -1},
			[]string{"did not connect to the control endpoint 127.0.0.1:", "within 300ms", "hello from silent"}},
		{"unreachable", externalEnv("127.0.0.1:1"), harness.Options{DialTimeout: 100 * time.Millisecond, MaxRestarts: -1},
			[]string{"external worker pool 127.0.0.1:1", "could not be reached within 100ms"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPool(t, newEndpoints(t), test.opts)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := p.Acquire(ctx, request("job", test.env))
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v\nlacks %q", err, want)
				}
			}
		})
	}
}

// A worker that is killed is replaced, and its lease tells how it died.
func TestLostWorkerIsReplaced(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{})
	r := request("job", processEnv("good", multiCore))
	first := acquire(t, p, r)
	pid, _ := strconv.Atoi(worker(first).pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-first.Worker.Lost()
	if got := first.Obituary(t.Context()); !strings.HasPrefix(got, "signal: killed") || !strings.Contains(got, "hello from good") {
		t.Errorf("obituary %q", got)
	}
	first.Release()
	second := acquire(t, p, r)
	if second.Worker == first.Worker {
		t.Error("got the dead worker again")
	}
}

// A worker that never does anything but die is given up.
func TestRestartsAreBounded(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{MaxRestarts: 2})
	r := request("job", processEnv("good", multiCore))
	for try := range 10 {
		l, err := p.Acquire(t.Context(), r)
		if err != nil {
			if try != 3 || !strings.Contains(err.Error(), "signal: killed") {
				t.Errorf("try %d: %v", try, err)
			}
			return
		}
		pid, _ := strconv.Atoi(worker(l).pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
		<-l.Worker.Lost()
		l.Release()
	}
	t.Error("restarted for ever")
}

// client is a LOOPBACK client: its workers are goroutines of the test.
type client struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer
	started, stopped chan string
}

func newClient(t *testing.T) (*client, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &client{started: make(chan string, 8), stopped: make(chan string, 8)}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	fnpb.RegisterBeamFnExternalWorkerPoolServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return c, listener.Addr().String()
}

func (c *client) StartWorker(_ context.Context, r *fnpb.StartWorkerRequest) (*fnpb.StartWorkerResponse, error) {
	read, err := connect(r.GetControlEndpoint().GetUrl(), r.GetWorkerId(), 0)
	if err != nil {
		return &fnpb.StartWorkerResponse{Error: err.Error()}, nil
	}
	go func() { _ = read() }()
	c.started <- r.GetWorkerId()
	return &fnpb.StartWorkerResponse{}, nil
}

func (c *client) StopWorker(_ context.Context, r *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	c.stopped <- r.GetWorkerId()
	return &fnpb.StopWorkerResponse{}, nil
}

// A LOOPBACK client is asked for one worker, whatever the cores, and for no
// other when that is lost.
func TestLoopbackHasOneWorker(t *testing.T) {
	c, address := newClient(t)
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 4})
	r := request("job", externalEnv(address))
	r.Workers = 3
	a, b := acquire(t, p, r), acquire(t, p, r)
	if a.Worker != b.Worker || len(c.started) != 1 {
		t.Errorf("%d workers were started", len(c.started))
	}
	a.Worker.Close()
	<-a.Worker.Lost()
	_, err := p.Acquire(t.Context(), r)
	for _, want := range []string{"LOOPBACK", address, "can't be started a second time"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v\nlacks %q", err, want)
		}
	}
	if len(c.started) != 1 {
		t.Errorf("%d workers were started", len(c.started))
	}
}

func TestExternalPoolIsToldToStop(t *testing.T) {
	c, address := newClient(t)
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 2})
	r := request("job", externalEnv(address))
	r.Options, _ = structpb.NewStruct(map[string]any{"beam:option:environment_type:v1": "EXTERNAL"})
	a, b := acquire(t, p, r), acquire(t, p, r)
	if a.Worker == b.Worker {
		t.Error("a worker pool may be asked for one worker for each core")
	}
	p.StopJob("job")
	if len(c.stopped) != 2 {
		t.Errorf("%d workers were stopped", len(c.stopped))
	}
}

func artifact(path, role string, payload []byte) *pipepb.ArtifactInformation {
	return &pipepb.ArtifactInformation{
		TypeUrn: "beam:artifact:type:file:v1", TypePayload: marshal(&pipepb.ArtifactFilePayload{Path: path}),
		RoleUrn: role, RolePayload: payload,
	}
}

// Where no engine runs, a Go pipeline's container is its own binary.
func TestNativeBoot(t *testing.T) {
	t.Setenv("WORKER_PART", "native")
	p := newPool(t, newEndpoints(t), harness.Options{})
	env := dockerEnv("apache/beam_go_sdk:latest", artifact(os.Args[0], "beam:artifact:role:go_worker_binary:v1", nil))
	r := request("job", env)
	r.Options, _ = structpb.NewStruct(map[string]any{"colour": "green"})
	l := acquire(t, p, r)
	options, err := os.ReadFile(worker(l).options)
	if err != nil || !strings.Contains(string(options), "green") {
		t.Errorf("options file: %q %v", options, err)
	}
}

func stagedAs(path, name string) *pipepb.ArtifactInformation {
	return artifact(path, "beam:artifact:role:staging_to:v1", marshal(&pipepb.ArtifactStagingToRolePayload{StagedName: name}))
}

// A process finds the job's files under their staged names.
func TestStagedFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("session"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPool(t, newEndpoints(t), harness.Options{})
	env := processEnv("good")
	env.Dependencies = []*pipepb.ArtifactInformation{stagedAs(file, "pickled_main_session"), stagedAs(file, "lib/a.jar")}
	l := acquire(t, p, request("job", env))
	dir := filepath.Dir(worker(l).options)
	for _, name := range []string{"pickled_main_session", "lib/a.jar"} {
		got, err := os.ReadFile(filepath.Join(dir, "staged", name))
		if string(got) != "session" {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func TestStagedNamesStayInside(t *testing.T) {
	for _, name := range []string{"../evil", "/etc/evil", "a/../../evil", "", "nul\x00", strings.Repeat("x", 4096)} {
		p := newPool(t, newEndpoints(t), harness.Options{})
		env := processEnv("good")
		env.Dependencies = []*pipepb.ArtifactInformation{stagedAs("/dev/null", name)}
		if _, err := p.Acquire(t.Context(), request("job", env)); err == nil {
			t.Errorf("name %.20q was accepted", name)
		}
		p.Close()
	}
}

func TestCheck(t *testing.T) {
	anyOf := func(envs ...*pipepb.Environment) *pipepb.Environment {
		return &pipepb.Environment{Urn: "beam:env:anyof:v1", Payload: marshal(&pipepb.AnyOfEnvironmentPayload{Environments: envs})}
	}
	process := func(p *pipepb.ProcessPayload) *pipepb.Environment {
		return &pipepb.Environment{Urn: "beam:env:process:v1", Payload: marshal(p)}
	}
	restricted := harness.Options{Processes: harness.ProcessPolicy{Restricted: true, Allowed: []string{"/bin/sh"}}}
	binary := artifact(os.Args[0], "beam:artifact:role:go_worker_binary:v1", nil)
	tests := []struct {
		name string
		env  *pipepb.Environment
		opts harness.Options
		want string // in the error; "" for none
	}{
		{"loopback", externalEnv("localhost:1234"), harness.Options{}, ""},
		{"external without address", externalEnv(""), harness.Options{}, "names no worker pool"},
		{"process", process(&pipepb.ProcessPayload{Command: "/bin/sh"}), harness.Options{}, ""},
		{"missing program", process(&pipepb.ProcessPayload{Command: "/nowhere/boot"}), harness.Options{}, `no program "/nowhere/boot"`},
		{"command with arguments", process(&pipepb.ProcessPayload{Command: "python -m x"}), harness.Options{}, "without a shell"},
		{"no command", process(&pipepb.ProcessPayload{}), harness.Options{}, "names no command"},
		{"other system", process(&pipepb.ProcessPayload{Command: "/bin/sh", Os: "plan9"}), harness.Options{}, "is for plan9"},
		{"bad variable", process(&pipepb.ProcessPayload{Command: "/bin/sh", Env: map[string]string{"A=B": ""}}), harness.Options{}, "not a variable's name"},
		{"not allowed", process(&pipepb.ProcessPayload{Command: "/bin/ls"}), restricted, "operator has allowed (/bin/sh)"},
		{"allowed", process(&pipepb.ProcessPayload{Command: "/bin/sh"}), restricted, ""},
		{"no engine", dockerEnv("image"), harness.Options{}, "--worker_binary"},
		{"no engine, options", dockerEnv("image"), harness.Options{}, "LOOPBACK"},
		{"native", dockerEnv("image", binary), harness.Options{}, ""},
		{"native, restricted", dockerEnv("image", binary), restricted, "doesn't run staged binaries"},
		{"image that is a flag", dockerEnv("--privileged"), harness.Options{}, "is not an image"},
		{"engine", dockerEnv("image"), harness.Options{Engine: "true"}, ""},
		{"any of", anyOf(dockerEnv("image"), processEnv("good")), harness.Options{}, ""},
		{"none of", anyOf(dockerEnv("image"), process(&pipepb.ProcessPayload{})), harness.Options{}, "names no command"},
		{"empty any-of", anyOf(), harness.Options{}, "no alternatives"},
		{"default", &pipepb.Environment{Urn: "beam:env:default:v1"}, harness.Options{}, "says nothing"},
		{"unknown", &pipepb.Environment{Urn: "beam:env:magic:v1"}, harness.Options{}, `"beam:env:magic:v1" are not supported`},
		{"none", nil, harness.Options{}, "no environment type"},
		{"garbage", &pipepb.Environment{Urn: "beam:env:docker:v1", Payload: []byte{0xff}}, harness.Options{}, "broken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := newPool(t, newEndpoints(t), test.opts).Check(test.env)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestCloseFailsWhoWaits(t *testing.T) {
	p := newPool(t, newEndpoints(t), harness.Options{})
	failed := make(chan error, 1)
	r := request("job", processEnv("silent"))
	if err := p.Warm(r); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := p.Acquire(context.Background(), r)
		failed <- err
	}()
	p.Close()
	if err := <-failed; !errors.Is(err, harness.ErrStopped) {
		t.Errorf("error %v", err)
	}
}
