package jobservice

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"trestle/jobservice/artifact"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// jobServer is Beam's JobService.
type jobServer struct {
	jobpb.UnimplementedJobServiceServer
	*Service
	held bool // calls come from another process, and are not sent on again
}

// Prepare checks a pipeline and keeps it for Run.
func (s *jobServer) Prepare(ctx context.Context, req *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	name := jobName(req)
	sub := &Submission{ID: newJobID(name), Name: name, Pipeline: req.GetPipeline(), Options: req.GetPipelineOptions()}
	if err := s.check(ctx, sub); err != nil {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, status.Error(codes.InvalidArgument, describe("prepare", name, err))
	}
	p := &preparedJob{
		jobID:      sub.ID,
		submission: sub,
		bytes:      int64(proto.Size(req)),
		staging:    make(chan struct{}, 1),
		touched:    s.opts.Now(),
	}
	if err := s.prepared.add(p); err != nil {
		return nil, status.Error(codes.ResourceExhausted, describe("prepare", name, err))
	}
	id := s.preparationID(sub.ID)
	return &jobpb.PrepareJobResponse{
		PreparationId:           id,
		StagingSessionToken:     id,
		ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.endpoint(ctx)},
	}, nil
}

// check gives all that is wrong with a submission.
func (s *jobServer) check(ctx context.Context, sub *Submission) error {
	if sub.Pipeline.GetComponents() == nil {
		return errors.New("the request holds no pipeline")
	}
	settings, err := ParseSettings(sub.Options)
	sub.Settings = settings
	return errors.Join(s.jobs.Check(ctx, sub), checkArtifacts(sub.Pipeline), err)
}

func checkArtifacts(p *pipepb.Pipeline) error {
	var errs []error
	for _, id := range environmentIDs(p) {
		for _, dep := range p.GetComponents().GetEnvironments()[id].GetDependencies() {
			if err := artifact.Check(dep); err != nil {
				errs = append(errs, fmt.Errorf("environment %q: %w", id, err))
			}
		}
	}
	return errors.Join(errs...)
}

func environmentIDs(p *pipepb.Pipeline) []string {
	envs := p.GetComponents().GetEnvironments()
	ids := make([]string, 0, len(envs))
	for id := range envs {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// jobName is what the author calls the job. Python's client always sends
// "job", and the author's name as an option.
func jobName(req *jobpb.PrepareJobRequest) string {
	name := req.GetJobName()
	if name == "" || name == "job" {
		if n, ok := lookup(req.GetPipelineOptions(), "job_name"); ok && n.GetStringValue() != "" {
			name = n.GetStringValue()
		}
	}
	if name == "" {
		name = "job"
	}
	return strings.ToValidUTF8(name[:min(len(name), 200)], "?")
}

// endpoint is where clients stage artifacts: the address they reached us by.
func (s *jobServer) endpoint(ctx context.Context) string {
	if s.opts.Endpoint != "" {
		return s.opts.Endpoint
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if a := md.Get(":authority"); len(a) == 1 {
		return a[0]
	}
	return ""
}

// describe puts what was being done before each line of an error.
func describe(doing, name string, err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		lines[i] = fmt.Sprintf("%s job %q: %s", doing, name, l)
	}
	return strings.Join(lines, "\n")
}

// Run submits a prepared job. Running it twice gives the same job.
func (s *jobServer) Run(ctx context.Context, req *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	id := jobID(req.GetPreparationId())
	p, done := s.prepared.use(req.GetPreparationId(), s.opts.Now)
	defer done()
	if p == nil {
		return s.runElsewhere(ctx, req)
	}
	select { // until nobody stages or submits it
	case p.staging <- struct{}{}:
		defer func() { <-p.staging }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	staged, failure := s.prepared.outcome(p)
	sub, err := withStaged(p.submission, staged, failure)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, describe("run", p.submission.Name, err))
	}
	if err := s.artifacts.Seal(id); err != nil {
		return nil, status.Error(codes.Internal, describe("run", sub.Name, err))
	}
	s.prepared.submitting(p)
	if err := s.jobs.Submit(ctx, sub); err != nil {
		return nil, status.Error(codes.Unavailable, describe("run", sub.Name, err))
	}
	s.prepared.remove(p)
	return &jobpb.RunJobResponse{JobId: id}, nil
}

// withStaged puts the staged artifacts in place of those that the client sent.
// An environment of a worker that runs already needs none.
func withStaged(sub *Submission, staged map[string][]*pipepb.ArtifactInformation, failure error) (*Submission, error) {
	var errs []error
	out := *sub
	components := shallow(sub.Pipeline.GetComponents())
	out.Pipeline = &pipepb.Pipeline{
		Components:       components,
		RootTransformIds: sub.Pipeline.GetRootTransformIds(),
		DisplayData:      sub.Pipeline.GetDisplayData(),
		Requirements:     sub.Pipeline.GetRequirements(),
	}
	for _, id := range environmentIDs(sub.Pipeline) {
		env := sub.Pipeline.GetComponents().GetEnvironments()[id]
		if len(env.GetDependencies()) == 0 {
			continue
		}
		deps, ok := staged[id]
		if !ok && env.GetUrn() != "beam:env:external:v1" {
			err := fmt.Errorf("environment %q: its %d artifacts were not staged", id, len(env.GetDependencies()))
			if failure != nil {
				err = fmt.Errorf("%w: %w", err, failure)
			}
			errs = append(errs, err)
			continue
		}
		changed := proto.Clone(env).(*pipepb.Environment)
		changed.Dependencies = deps
		components.Environments[id] = changed
	}
	return &out, errors.Join(errs...)
}

// shallow copies the components, and of the maps only that of environments.
func shallow(c *pipepb.Components) *pipepb.Components {
	envs := make(map[string]*pipepb.Environment, len(c.GetEnvironments()))
	for id, e := range c.GetEnvironments() {
		envs[id] = e
	}
	return &pipepb.Components{
		Transforms:          c.GetTransforms(),
		Pcollections:        c.GetPcollections(),
		WindowingStrategies: c.GetWindowingStrategies(),
		Coders:              c.GetCoders(),
		Environments:        envs,
	}
}

// GetJobs lists the jobs that were run.
func (s *jobServer) GetJobs(ctx context.Context, _ *jobpb.GetJobsRequest) (*jobpb.GetJobsResponse, error) {
	jobs, err := s.jobs.Jobs(ctx)
	if err != nil {
		return nil, asStatus("", err)
	}
	out := &jobpb.GetJobsResponse{}
	for _, j := range jobs {
		out.JobInfo = append(out.JobInfo, &jobpb.JobInfo{
			JobId:           j.ID,
			JobName:         j.Name,
			PipelineOptions: Redact(j.Options),
			State:           j.State.State,
		})
	}
	return out, nil
}

// GetState tells the current state; that of a prepared job is STOPPED.
func (s *jobServer) GetState(ctx context.Context, req *jobpb.GetJobStateRequest) (*jobpb.JobStateEvent, error) {
	p, done := s.prepared.use(req.GetJobId(), s.opts.Now)
	defer done()
	stopped := &jobpb.JobStateEvent{State: jobpb.JobState_STOPPED, Timestamp: timestamppb.New(s.opts.Now())}
	if p != nil && s.prepared.waits(p) {
		return stopped, nil
	}
	job, err := s.job(ctx, req.GetJobId())
	if status.Code(err) == codes.NotFound && p != nil {
		return stopped, nil // it was not accepted yet
	}
	if status.Code(err) == codes.NotFound {
		return askHolder(s, req.GetJobId(), err, func(there jobpb.JobServiceClient) (*jobpb.JobStateEvent, error) {
			return there.GetState(ctx, req)
		})
	}
	if err != nil {
		return nil, err
	}
	return job.State.event(), nil
}

// GetPipeline gives the pipeline as it was submitted.
func (s *jobServer) GetPipeline(ctx context.Context, req *jobpb.GetJobPipelineRequest) (*jobpb.GetJobPipelineResponse, error) {
	p, done := s.prepared.use(req.GetJobId(), s.opts.Now)
	defer done()
	if p != nil {
		return &jobpb.GetJobPipelineResponse{Pipeline: p.submission.Pipeline}, nil
	}
	pipeline, err := s.jobs.Pipeline(ctx, jobID(req.GetJobId()))
	if errors.Is(err, ErrNotFound) {
		return askHolder(s, req.GetJobId(), asStatus(req.GetJobId(), err), func(there jobpb.JobServiceClient) (*jobpb.GetJobPipelineResponse, error) {
			return there.GetPipeline(ctx, req)
		})
	}
	if err != nil {
		return nil, asStatus(req.GetJobId(), err)
	}
	return &jobpb.GetJobPipelineResponse{Pipeline: pipeline}, nil
}

// Cancel asks for a job's end. A job that has ended stays as it is.
func (s *jobServer) Cancel(ctx context.Context, req *jobpb.CancelJobRequest) (*jobpb.CancelJobResponse, error) {
	id := jobID(req.GetJobId())
	if err := s.jobs.Cancel(ctx, id); err != nil {
		return nil, asStatus(id, err)
	}
	job, err := s.job(ctx, id)
	if err != nil {
		return nil, err
	}
	return &jobpb.CancelJobResponse{State: job.State.State}, nil
}

// Drain asks a job to take no new input and finish what it has.
func (s *jobServer) Drain(ctx context.Context, req *jobpb.DrainJobRequest) (*jobpb.DrainJobResponse, error) {
	id := jobID(req.GetJobId())
	if err := s.jobs.Drain(ctx, id); err != nil {
		return nil, asStatus(id, err)
	}
	job, err := s.job(ctx, id)
	if err != nil {
		return nil, err
	}
	return &jobpb.DrainJobResponse{State: job.State.State}, nil
}

// GetJobMetrics tells a job's metrics, also after it failed.
//
// Java's client reads the attempted and the committed list as one, so that
// what stands in both counts double; it gets the attempted ones, which include
// the committed.
func (s *jobServer) GetJobMetrics(ctx context.Context, req *jobpb.GetJobMetricsRequest) (*jobpb.GetJobMetricsResponse, error) {
	attempted, committed, err := s.jobs.Metrics(ctx, jobID(req.GetJobId()))
	if err != nil {
		return nil, asStatus(req.GetJobId(), err)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, agent := range md.Get("user-agent") {
		if strings.Contains(agent, "grpc-java") {
			committed = nil
		}
	}
	return &jobpb.GetJobMetricsResponse{Metrics: &jobpb.MetricResults{Attempted: attempted, Committed: committed}}, nil
}

// job looks up a job that was run, by its own or its preparation's id.
func (s *Service) job(ctx context.Context, id string) (Job, error) {
	job, err := s.jobs.Job(ctx, jobID(id))
	if err != nil {
		return Job{}, asStatus(id, err)
	}
	return job, nil
}

func (st State) event() *jobpb.JobStateEvent {
	return &jobpb.JobStateEvent{State: st.State, Timestamp: timestamppb.New(st.Time)}
}

// asStatus gives the house's errors their gRPC codes.
func asStatus(id string, err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return status.Errorf(codes.NotFound, "no job %.200q", id)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, errors.ErrUnsupported):
		return status.Error(codes.Unimplemented, err.Error())
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}
