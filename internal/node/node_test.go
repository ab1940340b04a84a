package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/web"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

var quiet = slog.New(slog.DiscardHandler)

// serve runs a node until the returned function is called, which waits for its
// end.
func serve(t *testing.T, data string) (Ready, func() error) {
	t.Helper()
	c := Defaults()
	c.JobAddr, c.WebAddr, c.Data = "127.0.0.1:0", "127.0.0.1:0", data
	c.ReadyFile = filepath.Join(data, "..", "ready")
	n, err := New(c, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(served) }) }()
	select {
	case <-served:
	case err := <-ended:
		t.Fatalf("ended at once: %v", err)
	}
	r, err := ReadReady(c.ReadyFile)
	if err != nil || r != n.Ready() || r.PID != os.Getpid() {
		t.Errorf("ready file: %+v %v", r, err)
	}
	return r, func() error {
		stop()
		err := <-ended
		if _, statErr := os.Stat(c.ReadyFile); !errors.Is(statErr, os.ErrNotExist) {
			t.Errorf("the ready file outlives the node: %v", statErr)
		}
		if left, _ := filepath.Glob(filepath.Join(data, "task", "*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		return err
	}
}

// nothing is a pipeline without work.
func nothing() *pipepb.Pipeline {
	return &pipepb.Pipeline{
		RootTransformIds: []string{"i"},
		Components: &pipepb.Components{
			Transforms: map[string]*pipepb.PTransform{"i": {
				UniqueName: "Start", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:impulse:v1"}, Outputs: map[string]string{"o": "c"},
			}},
			Pcollections: map[string]*pipepb.PCollection{"c": {UniqueName: "c", CoderId: "b", IsBounded: pipepb.IsBounded_BOUNDED, WindowingStrategyId: "w"}},
			Coders: map[string]*pipepb.Coder{
				"b": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
				"g": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:global_window:v1"}},
			},
			WindowingStrategies: map[string]*pipepb.WindowingStrategy{"w": {
				WindowFn: &pipepb.FunctionSpec{Urn: "beam:window_fn:global_windows:v1"}, WindowCoderId: "g",
				Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
				MergeStatus:      pipepb.MergeStatus_NON_MERGING,
				AccumulationMode: pipepb.AccumulationMode_DISCARDING,
				OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
				ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
				OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
			}},
		},
	}
}

func get(t *testing.T, addr, path string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", path, resp.Status, err)
	}
	return string(b)
}

// A job goes in by the job endpoint and comes to its end; it is there to be
// seen after a restart; and nothing is left of the node when it has stopped.
func TestServe(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	data := filepath.Join(t.TempDir(), "data")
	ready, stop := serve(t, data)
	conn, err := grpc.NewClient(ready.Job, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	jobs := jobpb.NewJobServiceClient(conn)
	options, _ := structpb.NewStruct(map[string]any{"beam:option:api_token:v1": "hunter2"})
	prepared, err := jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "nothing", Pipeline: nothing(), PipelineOptions: options})
	if err != nil {
		t.Fatal(err)
	}
	run, err := jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: run.GetJobId()})
	if err != nil {
		t.Fatal(err)
	}
	var last jobpb.JobState_Enum
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if st := m.GetStateResponse(); st != nil {
			last = st.GetState()
		}
	}
	if last != jobpb.JobState_DONE {
		t.Errorf("the job ended %v", last)
	}
	if _, err := jobs.GetJobMetrics(t.Context(), &jobpb.GetJobMetricsRequest{JobId: run.GetJobId()}); err != nil {
		t.Errorf("metrics: %v", err)
	}
	_, err = jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "bad", Pipeline: &pipepb.Pipeline{Components: &pipepb.Components{
		Transforms: map[string]*pipepb.PTransform{"x": {UniqueName: "Odd", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:odd:v1", Payload: []byte("p")}, Outputs: map[string]string{"o": "nowhere"}}},
	}}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "Odd") {
		t.Errorf("bad pipeline: %v", err)
	}
	conn.Close()
	if err := stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}

	ready, stop = serve(t, data)
	var list web.JobList
	if err := json.Unmarshal([]byte(get(t, ready.Web, "/api/v1/jobs")), &list); err != nil || len(list.Jobs) != 1 || list.Jobs[0].State != "DONE" {
		t.Errorf("after a restart: %+v %v", list, err)
	}
	if page := get(t, ready.Web, "/jobs/"+run.GetJobId()); strings.Contains(page, "hunter2") {
		t.Error("the page shows a secret")
	}
	if m := get(t, ready.Web, "/metrics"); !strings.Contains(m, `trestle_jobs{state="DONE"} 1`) {
		t.Error("Prometheus isn't told of the job")
	}
	if err := stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	leaked := false
	err = filepath.WalkDir(data, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, readErr := os.ReadFile(path)
			leaked = leaked || strings.Contains(string(b), "hunter2")
			err = readErr
		}
		return err
	})
	if err != nil || leaked {
		t.Errorf("the ended job's secret is still on the disk: %v %v", leaked, err)
	}
}

// Two nodes don't share a data directory.
func TestOneDirectoryOneNode(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	_, stop := serve(t, data)
	defer stop()
	c := Defaults()
	c.JobAddr, c.WebAddr, c.Data = "127.0.0.1:0", "127.0.0.1:0", data
	if n, err := New(c, "test", quiet); err == nil {
		n.Close()
		t.Error("a second node took the directory")
	}
}

// Parts start in order and stop in reverse; one that fails takes all with it;
// one that hangs doesn't hold the process up.
func TestStack(t *testing.T) {
	var steps []string
	normal := func(name string) part {
		ready := make(chan struct{})
		return part{name: name, ready: ready, run: func(ctx context.Context) error {
			steps = append(steps, "+"+name)
			close(ready)
			<-ctx.Done()
			steps = append(steps, "-"+name)
			return nil
		}}
	}
	ctx, stop := context.WithCancel(t.Context())
	err := runStack(ctx, quiet, time.Minute, []part{normal("a"), normal("b")}, func() error { stop(); return nil })
	if got := strings.Join(steps, " "); err != nil || got != "+a +b -b -a" {
		t.Errorf("%s: %v", got, err)
	}
	steps = nil
	failing := part{name: "bad", run: func(context.Context) error { return errors.New("no") }}
	err = runStack(t.Context(), quiet, time.Minute, []part{normal("a"), failing}, func() error { return nil })
	if err == nil || err.Error() != "bad: no" || strings.Join(steps, " ") != "+a -a" {
		t.Errorf("%v: %v", steps, err)
	}
	hang := make(chan struct{})
	hanging := part{name: "stuck", run: func(context.Context) error { <-hang; return nil }}
	ctx, stop = context.WithCancel(t.Context())
	err = runStack(ctx, quiet, time.Millisecond, []part{hanging}, func() error { stop(); return nil })
	close(hang)
	if err == nil || !strings.Contains(err.Error(), "stuck did not stop") {
		t.Errorf("%v", err)
	}
}

// A data directory that is said by a relative path is found by workers, which
// have working directories of their own.
func TestRelativeData(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := Defaults()
	c.JobAddr, c.WebAddr, c.Data = "127.0.0.1:0", "127.0.0.1:0", "here"
	n, err := New(c, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if !filepath.IsAbs(n.path("task")) {
		t.Errorf("%s", n.path("task"))
	}
}
