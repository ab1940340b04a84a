package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"net"
	"sync"

	"trestle/internal/blobstore"
	"trestle/jobservice"
	"trestle/raftmeta/catalog"
	"trestle/runner"
	"trestle/runner/metrics"
	"trestle/runner/region"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// jobs is the house as the job service and the web page see it.
type jobs struct {
	cfg   Config
	lead  *lead
	board *runner.Board
	blobs blobstore.Store
	side  *taskSide // nil where tasks run elsewhere
	// share has those who may lead after us keep what a job needs; nil where
	// there is nobody else, or one store for all.
	share func(ctx context.Context, s *jobservice.Submission, blobs []string) error
	// fetch gets a job's blobs from those who have them; nil like share.
	fetch   func(ctx context.Context, job string, blobs ...string) error
	files   func(job string) []string // the names of the artifacts that it has staged
	contact *contact                  // with the group; nil where embedded
	log     *slog.Logger
	// submitting is held by those who store a job and then have it accepted, and
	// taken whole by who removes blobs that belong to no job.
	submitting sync.RWMutex
}

// Check plans the pipeline, and asks whether its workers can be started.
func (h *jobs) Check(_ context.Context, s *jobservice.Submission) error {
	_, err := Plan(s.Pipeline, h.planOptions(s))
	errs := []error{err}
	check := checkAway
	if h.side != nil {
		check = h.side.pool.Check
	}
	for id, env := range s.Pipeline.GetComponents().GetEnvironments() {
		if err := check(env); err != nil {
			errs = append(errs, fmt.Errorf("environment %q: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// checkAway refuses environments that can only be reached from the client's own
// machine: tasks run elsewhere, where "localhost" is somebody else.
func checkAway(env *pipepb.Environment) error {
	if env.GetUrn() != "beam:env:external:v1" {
		return nil
	}
	var external pipepb.ExternalPayload
	if err := proto.Unmarshal(env.GetPayload(), &external); err != nil {
		return fmt.Errorf("its payload can't be read: %w", err)
	}
	host, _, err := net.SplitHostPort(external.GetEndpoint().GetUrl())
	if err != nil || !loopback(host) {
		return nil // whether it answers is seen when it is dialled
	}
	return fmt.Errorf("its workers are at %s, which is LOOPBACK: only processes of the client's machine can reach them, and this JobManager's tasks run on others; use --environment_type=PROCESS, or EXTERNAL with a worker pool at an address that TaskManagers can reach (trestle worker-pool)",
		external.GetEndpoint().GetUrl())
}

func (h *jobs) mode(s *jobservice.Submission) region.Mode {
	if s.Settings.ExchangeMode != "" {
		return region.Mode(s.Settings.ExchangeMode)
	}
	return region.Mode(h.cfg.ExchangeMode)
}

func (h *jobs) planOptions(s *jobservice.Submission) PlanOptions {
	return PlanOptions{Mode: h.mode(s), Slots: h.cfg.Slots, Streaming: s.Settings.Streaming}
}

// Submit plans the pipeline as it is now, artifacts staged, stores all that
// the job needs, and hands it to the Dispatcher.
func (h *jobs) Submit(ctx context.Context, s *jobservice.Submission) error {
	plan, err := Plan(s.Pipeline, h.planOptions(s))
	if err != nil {
		return err
	}
	run := newStoredJob(s.Name, plan, s.Options)
	run.ID, run.Artifacts = s.ID, h.files(s.ID)
	runBytes, err := run.marshal()
	if err != nil {
		return err
	}
	pipeline, err := proto.Marshal(s.Pipeline)
	if err != nil {
		return err
	}
	shown, err := json.Marshal(jobservice.Redact(s.Options).AsMap())
	if err != nil {
		return err
	}
	h.submitting.RLock()
	defer h.submitting.RUnlock()
	hashes, err := h.blobs.Put(ctx, pipeline, runBytes)
	if err != nil {
		return err
	}
	if h.share != nil {
		if err := h.share(ctx, s, hashes); err != nil {
			return err
		}
	}
	if h.side != nil {
		h.side.stored.keep(s.ID, run)
	}
	// A client that goes away meanwhile doesn't end this: whether the job is
	// accepted must be known before its blobs may be taken for nobody's.
	err = h.lead.Submit(context.WithoutCancel(ctx), runner.Submission{
		ID:       s.ID,
		Name:     s.Name,
		Options:  shown,
		Pipeline: catalog.Hash(hashes[0]),
		Plan:     catalog.Hash(hashes[1]),
		Graph:    plan.Graph,
		Priority: s.Settings.Priority,
		Restart:  restart(s.Settings, h.cfg),

		MaxParallelism: s.Settings.Parallelism,
	})
	if errors.Is(err, runner.ErrJobExists) {
		return nil // our answer to an earlier try was lost
	}
	if err != nil {
		return err
	}
	h.restore(context.WithoutCancel(ctx), s.ID, pipeline, runBytes)
	if h.side == nil {
		return nil
	}
	if err := h.side.workers.warm(s.ID, run); err != nil {
		// The first task will find the same, and fail with it.
		h.log.Info("workers of a new job are not started yet", "job", s.ID, "err", err)
	}
	return nil
}

// restore puts what was taken for nobody's, by another process that didn't know
// of the job yet, while it was accepted. From here on all know whose it is.
func (h *jobs) restore(ctx context.Context, id string, blobs ...[]byte) {
	for _, b := range blobs {
		if j, err := h.board.Job(id); err != nil || j.State.Terminal() {
			return // what is gone has gone rightly
		}
		has, err := h.blobs.Has(ctx, blobstore.HashOf(b))
		if err == nil && !has {
			_, err = h.blobs.Put(ctx, b)
		}
		if err != nil {
			h.log.Warn("whether all that a new job needs is still there can't be told", "job", id, "err", err)
		}
	}
}

// restart is the job's own strategy; its details are the server's where the
// job doesn't say. A job that says nothing at all has the server's.
func restart(s jobservice.Settings, c Config) catalog.RestartStrategy {
	c.RestartStrategy = cmp.Or(s.RestartStrategy, c.RestartStrategy)
	if s.RestartAttempts != nil {
		c.RestartAttempts = *s.RestartAttempts
	}
	c.RestartDelay = cmp.Or(s.RestartDelay, c.RestartDelay)
	c.RestartMaxDelay = cmp.Or(s.RestartMaxDelay, c.RestartMaxDelay)
	c.RestartInterval = cmp.Or(s.RestartInterval, c.RestartInterval)
	return serverRestart(c)
}

// serverRestart is the strategy of jobs that don't say. For people, 0 attempts
// are none, and -1 as many as it takes; the catalog says it otherwise.
func serverRestart(c Config) catalog.RestartStrategy {
	r := catalog.RestartStrategy{
		Kind:     catalog.RestartKind(c.RestartStrategy),
		Attempts: c.RestartAttempts,
		Delay:    c.RestartDelay,
		MaxDelay: c.RestartMaxDelay,
		Factor:   2,
		Interval: c.RestartInterval,
	}
	switch {
	case r.Attempts == 0:
		r.Kind = catalog.RestartNone
	case r.Attempts < 0 && r.Kind == catalog.RestartExponential:
		r.Attempts = 0
	case r.Attempts < 0:
		r.Attempts = math.MaxInt32
	}
	return r
}

// Jobs are all jobs as the job service lists them.
func (h *jobs) Jobs(ctx context.Context) ([]jobservice.Job, error) {
	if err := h.lead.Sync(ctx); err != nil {
		return nil, err
	}
	var out []jobservice.Job
	for _, s := range h.board.Jobs() {
		out = append(out, jobOf(s))
	}
	return out, nil
}

// Job is one job.
func (h *jobs) Job(ctx context.Context, id string) (jobservice.Job, error) {
	if err := h.lead.Sync(ctx); err != nil {
		return jobservice.Job{}, err
	}
	j, err := h.board.Job(id)
	if err != nil {
		return jobservice.Job{}, houseError(err)
	}
	return jobOf(j.Summary), nil
}

func jobOf(s runner.Summary) jobservice.Job {
	return jobservice.Job{ID: s.ID, Name: s.Name, Options: optionsOf(s.Options), State: stateOf(s)}
}

func optionsOf(raw json.RawMessage) *structpb.Struct {
	var o structpb.Struct
	if err := o.UnmarshalJSON(raw); err != nil {
		return nil // we wrote them ourselves; a job without is shown without
	}
	return &o
}

func stateOf(s runner.Summary) jobservice.State {
	at := s.Accepted
	if !s.Ended.IsZero() {
		at = s.Ended
	} else if !s.Started.IsZero() {
		at = s.Started
	}
	return jobservice.State{State: beamState(s.State), Time: at, Error: s.Error}
}

func beamState(s catalog.JobState) jobpb.JobState_Enum {
	return jobpb.JobState_Enum(jobpb.JobState_Enum_value[string(s)])
}

// Watch follows a job, as long as this process hears of it.
func (h *jobs) Watch(ctx context.Context, id string) (iter.Seq[jobservice.State], error) {
	_, err := h.board.Watch(ctx, id)
	if errors.Is(err, runner.ErrUnknownJob) {
		// Another JobManager may have accepted it a moment ago.
		if err := h.lead.Sync(ctx); err != nil {
			return nil, err
		}
		_, err = h.board.Watch(ctx, id)
	}
	if err != nil {
		return nil, houseError(err)
	}
	if err := h.contact.lost(); err != nil {
		return nil, err
	}
	return func(yield func(jobservice.State) bool) {
		ctx, free := h.contact.keep(ctx)
		defer free()
		statuses, err := h.board.Watch(ctx, id)
		if err != nil {
			return // forgotten a moment ago
		}
		for s := range statuses {
			if !yield(jobservice.State{State: beamState(s.State), Time: s.At, Error: s.Error}) {
				return
			}
		}
	}, nil
}

// Pipeline is the pipeline as submitted.
func (h *jobs) Pipeline(ctx context.Context, id string) (*pipepb.Pipeline, error) {
	j, err := h.board.Job(id)
	if err != nil {
		return nil, houseError(err)
	}
	b, err := h.blobs.Get(ctx, j.Pipeline)
	if err != nil && h.fetch != nil {
		if err = h.fetch(ctx, id, j.Pipeline); err == nil {
			b, err = h.blobs.Get(ctx, j.Pipeline)
		}
	}
	if err != nil {
		return nil, err
	}
	var p pipepb.Pipeline
	return &p, proto.Unmarshal(b, &p)
}

// Metrics folds the metrics of a job's tasks.
func (h *jobs) Metrics(ctx context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error) {
	tasks, err := h.lead.Metrics(ctx, id)
	if err != nil {
		return nil, nil, houseError(err)
	}
	var all, finished metrics.Set
	for _, t := range tasks {
		if err := all.Unmarshal(t.Set); err != nil {
			return nil, nil, fmt.Errorf("metrics of task %s[%d]: %w", t.Stage, t.Index, err)
		}
		if t.Finished {
			if err := finished.Unmarshal(t.Set); err != nil {
				return nil, nil, fmt.Errorf("metrics of task %s[%d]: %w", t.Stage, t.Index, err)
			}
		}
	}
	return all.Infos(), finished.Infos(), nil
}

// Cancel asks for a job's end.
func (h *jobs) Cancel(ctx context.Context, id string) error {
	return houseError(h.lead.Stop(ctx, id, catalog.StopCancel))
}

// Drain asks a job to finish what it has.
func (h *jobs) Drain(ctx context.Context, id string) error {
	return houseError(h.lead.Stop(ctx, id, catalog.StopDrain))
}

func houseError(err error) error {
	if errors.Is(err, runner.ErrUnknownJob) {
		return jobservice.ErrNotFound
	}
	return err
}

// webJobs is what the web page sees.
type webJobs struct{ *jobs }

func (h webJobs) Jobs() []runner.Summary { return h.board.Jobs() }

func (h webJobs) Job(id string) (*runner.Job, error) {
	return h.lead.Job(context.Background(), id)
}

// Metrics are told with the author's names for transforms.
func (h webJobs) Metrics(ctx context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error) {
	attempted, committed, err = h.jobs.Metrics(ctx, id)
	if errors.Is(err, jobservice.ErrNotFound) {
		return nil, nil, runner.ErrUnknownJob
	}
	if err != nil {
		return nil, nil, err
	}
	p, err := h.jobs.Pipeline(ctx, id)
	if err != nil {
		return attempted, committed, nil //nolint:nilerr // ids are better than nothing
	}
	for _, infos := range [][]*pipepb.MonitoringInfo{attempted, committed} {
		for _, info := range infos {
			if t := p.GetComponents().GetTransforms()[info.GetLabels()["PTRANSFORM"]]; t != nil {
				info.Labels["PTRANSFORM"] = t.GetUniqueName()
			}
			if c := p.GetComponents().GetPcollections()[info.GetLabels()["PCOLLECTION"]]; c != nil && c.GetUniqueName() != "" {
				info.Labels["PCOLLECTION"] = c.GetUniqueName()
			}
		}
	}
	return attempted, committed, nil
}
