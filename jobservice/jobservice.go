// Package jobservice is the front door: Beam's Job, artifact staging and
// artifact retrieval services on one gRPC server.
//
// It translates and decides nothing. A pipeline comes in by Prepare, its files
// by artifact staging (package artifact keeps them), and Run hands a Submission
// to the house, which is behind the interfaces Jobs and Messages. Streams turn
// the house's states and messages into what the stock SDK clients expect; each
// of their habits that shaped an answer is written down beside the code.
//
// Everything that comes in is bounded and checked here. A bad pipeline is
// answered with codes.InvalidArgument and all that is wrong with it, in its
// author's names. Secrets in options are redacted in every answer; the
// Submission alone carries them, because the workers need them.
//
// A prepared job waits for Run in the process that prepared it. Where there are
// several, any of them takes the calls about it and sends them on.
//
// How jobs run, what their messages are and how long history is kept is left
// to the house.
package jobservice

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"trestle/jobservice/artifact"
	"trestle/runner/joblog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// ErrNotFound is what Jobs answers for a job that it doesn't know.
var ErrNotFound = errors.New("no such job")

// A Submission is a job as its author sent it, with its artifacts at hand.
type Submission struct {
	ID       string // unique, and safe as a file name: lower-case letters, digits, dashes
	Name     string // the author's
	Pipeline *pipepb.Pipeline
	// Options are what the author set, secrets included, under the names that
	// they came with; workers get them as they are.
	Options *structpb.Struct
	// Settings are the options that are meant for the runner, checked.
	Settings Settings
}

// A State is one step in the life of a job.
type State struct {
	State jobpb.JobState_Enum
	Time  time.Time
	// Error says why a job failed, in words for its author. Set with FAILED.
	Error string
}

// A Job is what the house knows of a submitted job at one moment.
type Job struct {
	ID      string
	Name    string
	Options *structpb.Struct
	State   State
}

// Jobs is the house, as the front door needs it. All methods are safe for
// concurrent use. For an unknown id they return ErrNotFound.
type Jobs interface {
	// Check returns all that is wrong with a pipeline (errors.Join), in words
	// for its author; nil if Submit will take it. Submission.ID may be "".
	Check(ctx context.Context, s *Submission) error
	// Submit returns once the job will survive the loss of this process. A
	// second Submit with an id that was accepted before does nothing.
	Submit(ctx context.Context, s *Submission) error
	// Jobs are all jobs in the order of their submission.
	Jobs(ctx context.Context) ([]Job, error)
	Job(ctx context.Context, id string) (Job, error)
	// Watch yields the state that a job is in and then each that it comes to,
	// the final one in any case. It ends after a final state, with ctx, when the
	// house closes, or when it hears no more of the job.
	Watch(ctx context.Context, id string) (iter.Seq[State], error)
	// Pipeline is the pipeline as it was submitted.
	Pipeline(ctx context.Context, id string) (*pipepb.Pipeline, error)
	// Metrics are told by the transforms of the submitted pipeline. Attempted
	// values include committed ones.
	Metrics(ctx context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error)
	// Cancel and Drain return when the wish is recorded. A job that has ended
	// stays as it is: no error.
	Cancel(ctx context.Context, id string) error
	Drain(ctx context.Context, id string) error
}

// Messages keeps what jobs and their workers had to say. (*joblog.Store has
// these methods.)
type Messages interface {
	// Open returns a reader of the messages after number after; 0 means all that
	// are kept. A job that has said nothing yet has no messages, and no error.
	Open(job string, after uint64) (*joblog.Reader, error)
}

// Options are settings of a Service; the zero value is good.
type Options struct {
	// Endpoint is the address that clients are told to stage artifacts to. If
	// empty, it is the one that a client reached Prepare by.
	Endpoint string
	// Name is this process's among those that Holder leads to: letters, digits,
	// '.', '_' and '-'. It stands in the ids of preparations that are made here.
	Name string
	// Holder is the way to the Service of the process of that name, as
	// RegisterHeld serves it; an error says why there is none. It is nil where
	// this process is the only one.
	Holder func(name string) (grpc.ClientConnInterface, error)
	// PreparedTTL is how long a prepared job waits for its next call before it
	// is forgotten: 1 hour if 0.
	PreparedTTL time.Duration
	// MaxPreparedBytes bounds the pipelines that wait for Run: 1 GiB if 0.
	MaxPreparedBytes int64
	Log              *slog.Logger     // slog.Default() if nil
	Now              func() time.Time // time.Now if nil
}

// MaxMessageBytes bounds one gRPC message, and with it a pipeline.
const MaxMessageBytes = 256 << 20

// ServerOptions are what a gRPC server needs that serves a Service.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
	}
}

// A Service is the front door. Make one with New.
type Service struct {
	jobs      Jobs
	messages  Messages
	artifacts *artifact.Store
	opts      Options
	prepared  *preparedTable
}

// New returns a Service. Its owner registers it and calls Run.
func New(jobs Jobs, messages Messages, artifacts *artifact.Store, opts Options) *Service {
	if opts.PreparedTTL == 0 {
		opts.PreparedTTL = time.Hour
	}
	if opts.MaxPreparedBytes == 0 {
		opts.MaxPreparedBytes = 1 << 30
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Service{
		jobs:      jobs,
		messages:  messages,
		artifacts: artifacts,
		opts:      opts,
		prepared:  newPreparedTable(opts.MaxPreparedBytes),
	}
}

// Register adds the services to a server made with ServerOptions.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	jobpb.RegisterJobServiceServer(r, &jobServer{Service: s})
	jobpb.RegisterArtifactStagingServiceServer(r, &stagingServer{Service: s})
	jobpb.RegisterLegacyArtifactStagingServiceServer(r, &legacyStagingServer{Service: s})
	jobpb.RegisterArtifactRetrievalServiceServer(r, &artifact.RetrievalServer{Store: s.artifacts})
}

// RegisterHeld adds the services for calls that other processes send on, because
// this one holds the preparation that they are about.
func (s *Service) RegisterHeld(r grpc.ServiceRegistrar) {
	jobpb.RegisterJobServiceServer(r, &jobServer{Service: s, held: true})
	jobpb.RegisterArtifactStagingServiceServer(r, &stagingServer{Service: s, held: true})
	jobpb.RegisterLegacyArtifactStagingServiceServer(r, &legacyStagingServer{Service: s, held: true})
}

// Run forgets prepared jobs that nobody runs, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(min(s.opts.PreparedTTL/4, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			s.Expire()
		}
	}
}

// Expire forgets the prepared jobs whose time is over, with their artifacts.
func (s *Service) Expire() {
	for _, p := range s.prepared.expire(s.opts.Now().Add(-s.opts.PreparedTTL)) {
		s.artifacts.Release(p.jobID)
		s.opts.Log.Info("forgot a job that was prepared and never run", "job", p.jobID)
	}
}
