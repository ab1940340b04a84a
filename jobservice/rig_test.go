package jobservice_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/jobservice"
	"trestle/jobservice/artifact"
	"trestle/runner/joblog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// A house is a Jobs whose jobs go to the states that a test says.
type house struct {
	mu        sync.Mutex
	order     []string
	jobs      map[string]*houseJob
	refuse    error
	accepted  func() // called when a job is in, before Submit returns; may be nil
	submitted int
}

type houseJob struct {
	sub     *jobservice.Submission
	states  []jobservice.State
	changed chan struct{}
}

func (h *house) Check(context.Context, *jobservice.Submission) error { return h.refuse }

func (h *house) Submit(_ context.Context, s *jobservice.Submission) error {
	if h.accepted != nil {
		defer h.accepted()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.submitted++
	if h.jobs[s.ID] != nil {
		return nil
	}
	h.order = append(h.order, s.ID)
	h.jobs[s.ID] = &houseJob{sub: s, changed: make(chan struct{}),
		states: []jobservice.State{{State: jobpb.JobState_STARTING, Time: time.Unix(1, 0)}}}
	return nil
}

func (h *house) become(id string, state jobpb.JobState_Enum, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.jobs[id]
	j.states = append(j.states, jobservice.State{State: state, Time: time.Unix(2, 0), Error: why})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (h *house) look(id string, from int) ([]jobservice.State, chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.jobs[id]
	if j == nil {
		return nil, nil, jobservice.ErrNotFound
	}
	if from < 0 {
		from = len(j.states) - 1
	}
	return j.states[from:], j.changed, nil
}

func (h *house) Watch(ctx context.Context, id string) (iter.Seq[jobservice.State], error) {
	if _, _, err := h.look(id, -1); err != nil {
		return nil, err
	}
	return func(yield func(jobservice.State) bool) {
		seen := -1
		for {
			states, changed, _ := h.look(id, seen)
			if seen < 0 {
				all, _, _ := h.look(id, 0)
				seen = len(all)
			} else {
				seen += len(states)
			}
			for _, st := range states {
				if !yield(st) || jobservice.Terminal(st.State) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}, nil
}

func (h *house) Job(_ context.Context, id string) (jobservice.Job, error) {
	states, _, err := h.look(id, -1)
	if err != nil {
		return jobservice.Job{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return jobservice.Job{ID: id, Name: h.jobs[id].sub.Name, Options: h.jobs[id].sub.Options, State: states[0]}, nil
}

func (h *house) Jobs(ctx context.Context) ([]jobservice.Job, error) {
	var out []jobservice.Job
	for _, id := range h.order {
		j, _ := h.Job(ctx, id)
		out = append(out, j)
	}
	return out, nil
}

func (h *house) Pipeline(_ context.Context, id string) (*pipepb.Pipeline, error) {
	if h.jobs[id] == nil {
		return nil, jobservice.ErrNotFound
	}
	return h.jobs[id].sub.Pipeline, nil
}

func (h *house) Metrics(_ context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error) {
	if h.jobs[id] == nil {
		return nil, nil, jobservice.ErrNotFound
	}
	m := []*pipepb.MonitoringInfo{{Urn: "beam:metric:user:sum_int64:v1"}}
	return m, m, nil
}

func (h *house) Cancel(_ context.Context, id string) error {
	st, _, err := h.look(id, -1)
	if err == nil && !jobservice.Terminal(st[0].State) {
		h.become(id, jobpb.JobState_CANCELLING, "")
	}
	return err
}

func (h *house) Drain(context.Context, string) error { return nil }

// A rig is a served Service with its client.
type rig struct {
	*house
	service   *jobservice.Service
	conn      *grpc.ClientConn
	jobs      jobpb.JobServiceClient
	log       *joblog.Store
	dir       string
	artifacts *artifact.Store
	now       time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOf(t, &house{jobs: map[string]*houseJob{}}, jobservice.Options{})
}

// newRigOf makes one of several rigs of a house.
func newRigOf(t *testing.T, h *house, opts jobservice.Options) *rig {
	t.Helper()
	r := &rig{house: h, dir: t.TempDir(), now: time.Unix(1000, 0)}
	var err error
	if r.artifacts, err = artifact.New(filepath.Join(r.dir, "artifacts"), artifact.Options{MaxFileBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if r.log, err = joblog.New(filepath.Join(r.dir, "log"), joblog.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.log.Close)
	opts.Endpoint, opts.Log = "stage:1", slog.New(slog.DiscardHandler)
	opts.Now = func() time.Time { return r.now }
	r.service = jobservice.New(r.house, r.log, r.artifacts, opts)
	r.conn, _ = served(t, r.service.Register)
	r.jobs = jobpb.NewJobServiceClient(r.conn)
	return r
}

// served is a connection to a server of its own, which can be stopped.
func served(t *testing.T, register func(grpc.ServiceRegistrar)) (_ *grpc.ClientConn, stop func()) {
	t.Helper()
	server := grpc.NewServer(jobservice.ServerOptions()...)
	register(server)
	listener := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent("test"))
	if err != nil {
		t.Fatal(err)
	}
	stop = func() { server.Stop(); serving.Wait() }
	t.Cleanup(func() { conn.Close(); stop() })
	return conn, stop
}

func pipeline(deps ...*pipepb.ArtifactInformation) *pipepb.Pipeline {
	return &pipepb.Pipeline{Components: &pipepb.Components{Environments: map[string]*pipepb.Environment{
		"py": {Urn: "beam:env:process:v1", Dependencies: deps},
	}}}
}

func file(name, sha string) *pipepb.ArtifactInformation {
	payload, _ := proto.Marshal(&pipepb.ArtifactFilePayload{Path: "/home/me/" + name, Sha256: sha})
	role, _ := proto.Marshal(&pipepb.ArtifactStagingToRolePayload{StagedName: name})
	return &pipepb.ArtifactInformation{TypeUrn: artifact.TypeFile, TypePayload: payload, RoleUrn: artifact.RoleStagingTo, RolePayload: role}
}

func sha(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

func (r *rig) prepare(t *testing.T, p *pipepb.Pipeline, options map[string]any) string {
	t.Helper()
	o, err := structpb.NewStruct(options)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.jobs.Prepare(t.Context(), &jobpb.PrepareJobRequest{JobName: "Word Count!", Pipeline: p, PipelineOptions: o})
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return got.GetPreparationId()
}

func (r *rig) run(t *testing.T, prepared string) string {
	t.Helper()
	got, err := r.jobs.Run(t.Context(), &jobpb.RunJobRequest{PreparationId: prepared})
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return got.GetJobId()
}

// stage answers like an SDK's client: each file's content in two chunks.
func (r *rig) stage(ctx context.Context, token string, files map[string]string) error {
	stream, err := jobpb.NewArtifactStagingServiceClient(r.conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token}); err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if q := req.GetResolveArtifact(); q != nil {
			_ = stream.Send(&jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: q.GetArtifacts()}}})
			continue
		}
		var p pipepb.ArtifactFilePayload
		_ = proto.Unmarshal(req.GetGetArtifact().GetArtifact().GetTypePayload(), &p)
		content, ok := files[strings.TrimPrefix(p.GetPath(), "/home/me/")]
		if !ok {
			return errors.New("asked for " + p.GetPath())
		}
		chunk := func(s string, last bool) {
			_ = stream.Send(&jobpb.ArtifactResponseWrapper{IsLast: last, Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
				GetArtifactResponse: &jobpb.GetArtifactResponse{Data: []byte(s)}}})
		}
		if content != "" {
			chunk(content[:1], false)
			chunk(content[1:], false)
		}
		chunk("", true)
	}
}
