package harness_test

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"trestle/harness"
	"trestle/harness/pool"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// servePool serves a worker pool that runs this test binary.
func servePool(t *testing.T, part string) (address string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := pool.New(pool.Options{Command: []string{os.Args[0]}, Env: []string{"WORKER_PART=" + part}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left on disk: %v %v", left, err)
		}
	}
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// The two ends of the external worker pool protocol understand each other: the
// pool's workers connect, know the options, and end with the job.
func TestWorkerPool(t *testing.T) {
	address, _ := servePool(t, "good")
	p := newPool(t, newEndpoints(t), harness.Options{Cores: 2})
	r := request("job", externalEnv(address))
	r.Options, _ = structpb.NewStruct(map[string]any{"beam:option:environment_type:v1": "EXTERNAL"})
	a, b := acquire(t, p, r), acquire(t, p, r)
	options, err := os.ReadFile(worker(a).options)
	if err != nil || !strings.Contains(string(options), "EXTERNAL") {
		t.Errorf("options %q %v", options, err)
	}
	p.StopJob("job")
	mustBeGone(t, worker(a))
	mustBeGone(t, worker(b))
}

// When the pool ends, so do its workers, also those that don't listen.
func TestWorkerPoolEndsItsWorkers(t *testing.T) {
	address, stop := servePool(t, "good")
	e := newEndpoints(t)
	p := newPool(t, e, harness.Options{StopGrace: 100 * time.Millisecond})
	r := request("job", externalEnv(address, multiCore))
	l := acquire(t, p, r)
	stop()
	mustBeGone(t, worker(l))
	<-l.Worker.Lost()
}

func TestWorkerPoolRefuses(t *testing.T) {
	s, err := pool.New(pool.Options{Command: []string{os.Args[0]}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*fnpb.StartWorkerRequest{{}, {WorkerId: "no endpoints"}} {
		response, err := s.StartWorker(t.Context(), r)
		if err != nil || response.GetError() == "" {
			t.Errorf("%v was accepted", r)
		}
	}
	if _, err := pool.New(pool.Options{Command: []string{"no-such-program-here"}}); err == nil {
		t.Error("a pool without a program was made")
	}
}
