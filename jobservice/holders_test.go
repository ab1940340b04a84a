package jobservice_test

import (
	"errors"
	"strings"
	"testing"

	"trestle/jobservice"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A pair is two doors of one house.
type pair struct {
	maker, other *rig
	leave        func() // the maker can't be asked any more
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	h := &house{jobs: map[string]*houseJob{}}
	ways := map[string]grpc.ClientConnInterface{}
	holder := func(name string) (grpc.ClientConnInterface, error) {
		if ways[name] == nil {
			return nil, errors.New("it is not of this group")
		}
		return ways[name], nil
	}
	p.maker = newRigOf(t, h, jobservice.Options{Name: "jm1", Holder: holder})
	p.other = newRigOf(t, h, jobservice.Options{Name: "jm2", Holder: holder})
	ways["jm1"], p.leave = served(t, p.maker.service.RegisterHeld)
	ways["lost"], _ = served(t, p.other.service.RegisterHeld) // a name that leads to the wrong one
	return p
}

// What one process has prepared can be looked at, staged for and run by any
// other, as often as one likes; the files are where it was prepared.
func TestElsewhere(t *testing.T) {
	p := newPair(t)
	files := map[string]string{"a": "hello", "big": strings.Repeat("0123456789", 90_000), "empty": ""}
	prepared := p.maker.prepare(t, pipeline(file("a", sha("hello")), file("big", ""), file("empty", "")), nil)
	if st, err := p.other.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared}); err != nil || st.GetState() != jobpb.JobState_STOPPED {
		t.Errorf("state: %v %v", st, err)
	}
	got, err := p.other.jobs.GetPipeline(t.Context(), &jobpb.GetJobPipelineRequest{JobId: prepared})
	if err != nil || len(got.GetPipeline().GetComponents().GetEnvironments()) != 1 {
		t.Errorf("pipeline: %v %v", got, err)
	}
	early, err := p.other.jobs.GetStateStream(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared})
	if err == nil {
		_, err = early.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("states before Run: %v", err)
	}
	if _, err := p.other.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Run before staging: %v", err)
	}
	if err := p.other.stage(t.Context(), prepared, files); err != nil {
		t.Fatalf("stage: %v", err)
	}
	id := p.other.run(t, prepared)
	if again := p.maker.run(t, prepared); again != id || p.maker.submitted != 1 {
		t.Errorf("run twice: %s and %s, %d submissions", id, again, p.maker.submitted)
	}
	if !strings.HasPrefix(prepared, "prepared-") || strings.Contains(id, "jm1") {
		t.Errorf("preparation %q, job %q", prepared, id)
	}
	if here, there := p.other.files(t), p.maker.files(t); len(here) != 0 || len(there) == 0 {
		t.Errorf("files: %v where it was prepared, %v elsewhere", there, here)
	}
	deps := p.maker.house.jobs[id].sub.Pipeline.GetComponents().GetEnvironments()["py"].GetDependencies()
	for i, want := range []string{"hello", files["big"], ""} {
		if got := p.maker.fetch(t, deps[i]); got != want {
			t.Errorf("artifact %d has %d bytes, want %d", i, len(got), len(want))
		}
	}
	if st, err := p.other.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: prepared}); err != nil || st.GetState() != jobpb.JobState_STARTING {
		t.Errorf("state of the job by its preparation's id: %v %v", st, err)
	}
}

// What the holder has to say about staging arrives as it was said.
func TestStagingElsewhere(t *testing.T) {
	p := newPair(t)
	prepared := p.maker.prepare(t, pipeline(file("a", sha("other"))), nil)
	err := p.other.stage(t.Context(), prepared, map[string]string{"a": "hello"})
	if status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), `artifact "a": the 5 bytes received`) {
		t.Errorf("wrong hash: %v", err)
	}
	legacy, err := jobpb.NewLegacyArtifactStagingServiceClient(p.other.conn).PutArtifact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = legacy.Send(&jobpb.PutArtifactRequest{Content: &jobpb.PutArtifactRequest_Metadata{Metadata: &jobpb.PutArtifactMetadata{StagingSessionToken: prepared}}})
	if _, err := legacy.CloseAndRecv(); status.Code(err) != codes.DataLoss {
		t.Errorf("the reason by the legacy protocol: %v", err)
	}
	prepared = p.maker.prepare(t, pipeline(file("a", "")), nil)
	err = p.other.stage(t.Context(), prepared, map[string]string{"a": strings.Repeat("x", 3<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too large: %v", err)
	}
	if names := p.maker.files(t); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// Clients that break the staging protocol get the word that they would get
// where they prepared.
func TestStagingProtocolElsewhere(t *testing.T) {
	p := newPair(t)
	resolve := func(m *jobpb.ArtifactRequestWrapper) *jobpb.ArtifactResponseWrapper {
		return &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
			ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: m.GetResolveArtifact().GetArtifacts()}}}
	}
	for name, answer := range map[string]func(m *jobpb.ArtifactRequestWrapper) *jobpb.ArtifactResponseWrapper{
		"nothing": func(*jobpb.ArtifactRequestWrapper) *jobpb.ArtifactResponseWrapper {
			return &jobpb.ArtifactResponseWrapper{}
		},
		"end":             func(*jobpb.ArtifactRequestWrapper) *jobpb.ArtifactResponseWrapper { return nil },
		"always resolves": resolve,
		"end in the midst": func(m *jobpb.ArtifactRequestWrapper) *jobpb.ArtifactResponseWrapper {
			if m.GetResolveArtifact() != nil {
				return resolve(m)
			}
			return nil
		},
	} {
		stream, err := jobpb.NewArtifactStagingServiceClient(p.other.conn).ReverseArtifactRetrievalService(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: p.maker.prepare(t, pipeline(file("a", "")), nil)})
		for {
			var m *jobpb.ArtifactRequestWrapper
			if m, err = stream.Recv(); err != nil {
				break
			}
			if a := answer(m); a != nil {
				_ = stream.Send(a)
			} else {
				_ = stream.CloseSend()
			}
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where the holder is away a client hears that it may have to prepare again; but
// a job that was accepted answers. Nothing goes in circles.
func TestHolderAway(t *testing.T) {
	p := newPair(t)
	accepted, waiting := p.maker.prepare(t, pipeline(), nil), p.maker.prepare(t, pipeline(), nil)
	id := p.maker.run(t, accepted)
	job := func(prepared string) string {
		return strings.TrimSuffix(strings.TrimPrefix(prepared, "prepared-"), "@jm1")
	}
	for _, c := range []struct {
		preparation string
		code        codes.Code
	}{
		{"prepared-" + job(waiting) + "@lost", codes.NotFound},
		{"prepared-" + job(waiting) + "@nobody", codes.Unavailable},
		{"prepared-none@jm1", codes.NotFound},
		{"prepared-none@jm2", codes.NotFound},
		{job(waiting) + "@jm1", codes.NotFound}, // no preparation's id
	} {
		if _, err := p.other.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: c.preparation}); status.Code(err) != c.code {
			t.Errorf("%s: %v", c.preparation, err)
		}
	}
	p.leave()
	if again := p.other.run(t, accepted); again != id {
		t.Errorf("the job that was accepted is %s, want %s", again, id)
	}
	for name, call := range map[string]func() error{
		"run": func() error {
			_, err := p.other.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: waiting})
			return err
		},
		"state": func() error {
			_, err := p.other.jobs.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: waiting})
			return err
		},
		"stage": func() error { return p.other.stage(t.Context(), waiting, nil) },
	} {
		if err := call(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `prepared at JobManager "jm1"`) || !strings.Contains(err.Error(), "prepare the job again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.maker.submitted != 1 {
		t.Errorf("%d submissions", p.maker.submitted)
	}
}
