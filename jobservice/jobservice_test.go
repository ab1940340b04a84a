package jobservice_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/runner/joblog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A job's way in: its files are staged, checked, and given out under names
// that are their hashes; running twice gives the same job.
func TestSubmit(t *testing.T) {
	r := newRig(t)
	p := pipeline(file("lib/a.whl", sha("hello")), file("empty", sha("")), file("no-hash", ""))
	prepared := r.prepare(t, p, map[string]any{"beam:option:exchange_mode:v1": "all_blocking", "beam:option:priority:v1": "3"})
	if _, err := r.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Run before staging: %v", err)
	}
	if err := r.stage(t.Context(), prepared, map[string]string{"lib/a.whl": "hello", "empty": "", "no-hash": "x"}); err != nil {
		t.Fatalf("stage: %v", err)
	}
	id := r.run(t, prepared)
	if again := r.run(t, prepared); again != id {
		t.Errorf("second Run gave %s, first %s", again, id)
	}
	if !strings.HasPrefix(id, "word-count-") || r.submitted != 1 {
		t.Errorf("id %q, %d submissions", id, r.submitted)
	}
	sub := r.house.jobs[id].sub
	if sub.Settings.ExchangeMode != "all-blocking" || sub.Settings.Priority != 3 {
		t.Errorf("settings %+v", sub.Settings)
	}
	deps := sub.Pipeline.GetComponents().GetEnvironments()["py"].GetDependencies()
	want := []string{"hello", "", "x"}
	if len(deps) != len(want) {
		t.Fatalf("%d dependencies", len(deps))
	}
	for i, dep := range deps {
		if got := r.fetch(t, dep); got != want[i] {
			t.Errorf("artifact %d holds %q", i, got)
		}
		if !proto.Equal(&pipepb.ArtifactInformation{RoleUrn: dep.RoleUrn, RolePayload: dep.RolePayload},
			&pipepb.ArtifactInformation{RoleUrn: p.Components.Environments["py"].Dependencies[i].RoleUrn, RolePayload: p.Components.Environments["py"].Dependencies[i].RolePayload}) {
			t.Errorf("artifact %d lost its role", i)
		}
	}
	r.artifacts.Release(id)
	if names := r.files(t); len(names) != 0 {
		t.Errorf("files left after the job's release: %v", names)
	}
}

func (r *rig) fetch(t *testing.T, a *pipepb.ArtifactInformation) string {
	t.Helper()
	stream, err := jobpb.NewArtifactRetrievalServiceClient(r.conn).GetArtifact(t.Context(), &jobpb.GetArtifactRequest{Artifact: a})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.Write(m.GetData())
	}
}

// files are all files below the artifacts' directory.
func (r *rig) files(t *testing.T) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(r.dir, "artifacts"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A bad artifact is refused with its name, and leaves nothing behind.
func TestBadArtifacts(t *testing.T) {
	for name, c := range map[string]struct {
		dep     *pipepb.ArtifactInformation
		content string
		code    codes.Code
		says    string
	}{
		"wrong hash":                   {file("a", sha("other")), "hello", codes.DataLoss, `artifact "a": the 5 bytes received have SHA-256 ` + sha("hello")},
		"garbage hash":                 {file("a", "../../etc"), "hello", codes.DataLoss, "was promised"},
		"too large":                    {file("a", ""), strings.Repeat("x", 1<<20+1), codes.ResourceExhausted, "may have 1048576 bytes"},
		"wrong hash of the empty file": {file("a", sha("x")), "", codes.DataLoss, "the 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			prepared := r.prepare(t, pipeline(c.dep), nil)
			err := r.stage(t.Context(), prepared, map[string]string{"a": c.content})
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("stage: %v", err)
			}
			_, err = r.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared})
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "were not staged") {
				t.Errorf("Run: %v", err)
			}
			if names := r.files(t); len(names) != 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

// A staged name that could lead out of a worker's directory never gets in.
func TestHostileNames(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"", "../up", "a/../../up", "/abs", "nul\x00byte", "a//b", "./a", "back\\slash", strings.Repeat("n", 4096), strings.Repeat("n", 300)} {
		_, err := r.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "j", Pipeline: pipeline(file(name, ""))})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "staged name") {
			t.Errorf("name %.20q: %v", name, err)
		}
	}
	for _, urn := range []string{"", "beam:artifact:type:pypi:v1", "beam:artifact:type:maven:v1", "x"} {
		_, err := r.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "j", Pipeline: pipeline(&pipepb.ArtifactInformation{TypeUrn: urn})})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "artifact type") {
			t.Errorf("type %q: %v", urn, err)
		}
	}
}

// A client that breaks the staging protocol gets a word, whatever it sends.
func TestStagingProtocol(t *testing.T) {
	r := newRig(t)
	client := jobpb.NewArtifactStagingServiceClient(r.conn)
	if err := r.stage(t.Context(), "nobody", nil); status.Code(err) != codes.NotFound {
		t.Errorf("unknown token: %v", err)
	}
	prepared := r.prepare(t, pipeline(file("a", "")), nil)
	for name, second := range map[string]*jobpb.ArtifactResponseWrapper{
		"no answer":    {},
		"hostile name": {Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: []*pipepb.ArtifactInformation{file("../x", "")}}}},
		"end":          nil,
	} {
		stream, err := client.ReverseArtifactRetrievalService(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: prepared})
		if second != nil {
			_ = stream.Send(second)
		} else {
			_ = stream.CloseSend()
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	legacy, err := jobpb.NewLegacyArtifactStagingServiceClient(r.conn).PutArtifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = legacy.Send(&jobpb.PutArtifactRequest{Content: &jobpb.PutArtifactRequest_Metadata{Metadata: &jobpb.PutArtifactMetadata{StagingSessionToken: prepared}}})
	if _, err := legacy.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("legacy protocol should tell the reason: %v", err)
	}
}

// Python's client asks for the streams of the preparation id before Run and
// must be refused; after Run the state stream begins with the current state.
func TestStateStream(t *testing.T) {
	r := newRig(t)
	prepared := r.prepare(t, pipeline(), nil)
	early, err := r.jobs.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared})
	if err == nil {
		_, err = early.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Fatalf("before Run: %v", err)
	}
	if st, err := r.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared}); err != nil || st.GetState() != jobpb.JobState_STOPPED {
		t.Errorf("state of a prepared job: %v %v", st, err)
	}
	r.accepted = func() { // others may see it already; so must who asks here
		if st, err := r.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared}); err != nil || st.GetState() != jobpb.JobState_STARTING {
			t.Errorf("state of an accepted job whose Run has not returned: %v %v", st, err)
		}
	}
	id := r.run(t, prepared)
	stream, err := r.jobs.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	next := func() jobpb.JobState_Enum {
		st, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return st.GetState()
	}
	if st := next(); st != jobpb.JobState_STARTING {
		t.Errorf("first state %v", st)
	}
	r.become(id, jobpb.JobState_RUNNING, "")
	r.become(id, jobpb.JobState_DONE, "")
	if a, b := next(), next(); a != jobpb.JobState_RUNNING || b != jobpb.JobState_DONE {
		t.Errorf("states %v %v", a, b)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// A failed job's stream holds one ERROR message, before FAILED, whatever its
// workers logged; then it closes. Someone who asks later reads the same.
func TestMessageStream(t *testing.T) {
	r := newRig(t)
	id := r.run(t, r.prepare(t, pipeline(), nil))
	stream, err := r.jobs.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetStateResponse().GetState() != jobpb.JobState_STARTING {
		t.Fatalf("first: %v %v", first, err)
	}
	err = r.log.Append(id,
		joblog.Entry{Level: joblog.Error, Origin: "python-1", Transform: "Split", Text: "oops"},
		joblog.Entry{Level: joblog.Debug, Origin: "runner", Text: "detail"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ERROR [python-1] Split: oops", "detail"} {
		m, err := stream.Recv()
		if err != nil || m.GetMessageResponse().GetMessageText() != want {
			t.Fatalf("got %v %v, want %s", m, err, want)
		}
		if m.GetMessageResponse().GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
			t.Errorf("%q must not look like the job's end", want)
		}
	}
	r.become(id, jobpb.JobState_FAILED, "ValueError: no")
	check := func(stream jobpb.JobService_GetMessageStreamClient) {
		t.Helper()
		var seen []string
		for {
			m, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if st := m.GetStateResponse(); st != nil {
				seen = append(seen, st.GetState().String())
			} else if m.GetMessageResponse().GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
				seen = append(seen, m.GetMessageResponse().GetMessageText())
			}
		}
		if got := strings.Join(seen, " | "); got != "ValueError: no | FAILED" {
			t.Errorf("end of stream: %s", got)
		}
	}
	check(stream)
	if err := r.log.Append(id, joblog.Entry{Level: joblog.Failure, Text: "ValueError: no"}); err != nil {
		t.Fatal(err)
	}
	later, err := r.jobs.GetMessageStream(t.Context(), &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	check(later)
}

// All that is wrong is told at once, a line each, and every line names the job.
func TestRefusal(t *testing.T) {
	r := newRig(t)
	r.refuse = errors.Join(errors.New(`transform "A" (e1): wrong`), errors.New(`transform "B" (e2): wrong`))
	o, _ := structpb.NewStruct(map[string]any{"restart_strategy": "sometimes", "priority": "high", "streaming": "true"})
	_, err := r.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "wc", Pipeline: pipeline(), PipelineOptions: o})
	if status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	lines := strings.Split(status.Convert(err).Message(), "\n")
	if len(lines) != 4 {
		t.Errorf("lines: %q", lines)
	}
	for _, l := range lines {
		if !strings.HasPrefix(l, `prepare job "wc": `) {
			t.Errorf("line %q", l)
		}
	}
	if _, err := r.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no pipeline: %v", err)
	}
}

// Pipelines of many megabytes come in and can be asked for.
func TestLargePipeline(t *testing.T) {
	r := newRig(t)
	p := pipeline()
	p.Components.Transforms = map[string]*pipepb.PTransform{"big": {Spec: &pipepb.FunctionSpec{Payload: make([]byte, 30<<20)}}}
	id := r.run(t, r.prepare(t, p, nil))
	got, err := r.jobs.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: id}, grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil || len(got.GetPipeline().GetComponents().GetTransforms()["big"].GetSpec().GetPayload()) != 30<<20 {
		t.Errorf("GetPipeline: %v", err)
	}
}

// What is prepared and never run is forgotten, unless its files are on the way.
func TestExpiry(t *testing.T) {
	r := newRig(t)
	prepared := r.prepare(t, pipeline(file("a", "")), nil)
	if err := r.stage(t.Context(), prepared, map[string]string{"a": "x"}); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(59 * time.Minute)
	r.service.Expire()
	if _, err := r.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared}); err != nil {
		t.Errorf("expired early: %v", err)
	}
	r.now = r.now.Add(61 * time.Minute)
	r.service.Expire()
	if _, err := r.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared}); status.Code(err) != codes.NotFound {
		t.Errorf("Run after expiry: %v", err)
	}
	if names := r.files(t); len(names) != 0 {
		t.Errorf("files left: %v", names)
	}
}

// Unknown ids are NotFound everywhere; a cancelled job says so; Java's client
// gets one list of metrics.
func TestQueries(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for name, call := range map[string]func(string) error{
		"state": func(id string) error {
			_, err := r.jobs.GetState(ctx, &jobpb.GetJobStateRequest{JobId: id})
			return err
		},
		"pipeline": func(id string) error {
			_, err := r.jobs.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
			return err
		},
		"metrics": func(id string) error {
			_, err := r.jobs.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
			return err
		},
		"cancel": func(id string) error { _, err := r.jobs.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id}); return err },
		"run":    func(id string) error { _, err := r.jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: id}); return err },
	} {
		for _, id := range []string{"", "nobody", "../../etc/passwd", strings.Repeat("x", 1<<20)} {
			if err := call(id); status.Code(err) != codes.NotFound || len(err.Error()) > 1000 {
				t.Errorf("%s of %.20q: %.300v", name, id, err)
			}
		}
	}
	id := r.run(t, r.prepare(t, pipeline(), map[string]any{"beam:option:api_token:v1": "hunter2"}))
	jobs, err := r.jobs.GetJobs(ctx, &jobpb.GetJobsRequest{})
	if err != nil || len(jobs.GetJobInfo()) != 1 || strings.Contains(jobs.String(), "hunter2") {
		t.Errorf("GetJobs: %v %v", jobs, err)
	}
	if got := r.house.jobs[id].sub.Options.GetFields()["beam:option:api_token:v1"].GetStringValue(); got != "hunter2" {
		t.Errorf("workers must get the option as it is, not %q", got)
	}
	m, err := r.jobs.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	if err != nil || len(m.GetMetrics().GetCommitted()) != 1 {
		t.Errorf("metrics: %v %v", m, err)
	}
	c, err := r.jobs.Cancel(ctx, &jobpb.CancelJobRequest{JobId: id})
	if err != nil || c.GetState() != jobpb.JobState_CANCELLING {
		t.Errorf("cancel: %v %v", c, err)
	}
	d, err := r.jobs.DescribePipelineOptions(ctx, &jobpb.DescribePipelineOptionsRequest{})
	if err != nil || len(d.GetOptions()) < 5 {
		t.Errorf("describe: %v %v", d, err)
	}
}
