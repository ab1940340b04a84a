package node

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"trestle/fnapi"
	"trestle/harness"
	"trestle/runner/bundle"
	"trestle/runner/joblog"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// workers is task.Workers over the harness pool.
type workers struct {
	pool   *harness.Pool
	stored *stored
	// perEnvironment is --workers-per-environment; 0 for as many as are useful.
	perEnvironment int
	lanes          int
}

// Acquire waits for a worker of the job's environment; see task.Workers.
func (w *workers) Acquire(ctx context.Context, job, environment string, had *fnapi.Worker) (bundle.Lease, error) {
	req, err := w.request(job, environment)
	if err != nil {
		return nil, err
	}
	if had != nil {
		req.Had = had.ID()
	}
	l, err := w.pool.Acquire(ctx, req)
	if err != nil {
		return nil, err
	}
	return &lease{Lease: l, worker: l.Worker.(*admitted).Worker}, nil
}

// warm starts the workers of all environments that the job's stages use.
func (w *workers) warm(job string, j *storedJob) error {
	var envs []string
	for _, st := range j.Plan.Graph.Stages {
		if st.Environment != "" && !slices.Contains(envs, st.Environment) {
			envs = append(envs, st.Environment)
		}
	}
	for _, e := range envs {
		req, err := w.request(job, e)
		if err != nil {
			return err
		}
		if err := w.pool.Warm(req); err != nil {
			return err
		}
	}
	return nil
}

func (w *workers) request(job, environment string) (harness.Request, error) {
	j, env, err := w.stored.environment(job, environment)
	if err != nil {
		return harness.Request{}, err
	}
	n := w.perEnvironment
	// Python's client always sends the option, and 1 unless the user says more:
	// 1 is no wish. Who wants one worker says so to the server.
	if own := j.settings().SDKWorkerParallel; own > 1 {
		n = own
	}
	return harness.Request{
		Job: job, JobName: j.Name,
		EnvironmentID: environment, Environment: env,
		Options: j.Options,
		Workers: n, Lanes: w.lanes,
	}, nil
}

// Failed tells why there will be no worker of the environment any more.
func (w *workers) Failed(job, environment string) error { return w.pool.Failed(job, environment) }

// StopJob ends the job's workers and lets go of its plan.
func (w *workers) StopJob(job string) {
	w.pool.StopJob(job)
	w.stored.forget(job)
}

// lease is a harness.Lease as package bundle wants it.
type lease struct {
	*harness.Lease
	worker *fnapi.Worker
}

func (l *lease) Worker() *fnapi.Worker { return l.worker }
func (l *lease) Lane() int             { return l.Lease.Lane }

// endpoints is harness.Endpoints over the Fn API server.
type endpoints struct {
	server    *fnapi.Server
	addr      string // of all services but data
	artifacts artifacts
	stored    *stored
	log       func(job string, entries ...joblog.Entry) error
}

// artifacts opens what a job has staged.
type artifacts interface {
	Open(ctx context.Context, job string, a *pipepb.ArtifactInformation) (io.ReadCloser, error)
}

// admitted is a *fnapi.Worker behind harness.Worker.
type admitted struct{ *fnapi.Worker }

// Addresses tells workers where to connect.
func (e *endpoints) Addresses() harness.Addresses {
	return harness.Addresses{Control: e.addr, Logging: e.addr, Artifact: e.addr, Provision: e.addr, Status: e.addr}
}

// Admit lets one worker of a job connect. What it logs are messages of the job.
func (e *endpoints) Admit(a harness.Admission) (harness.Worker, error) {
	w, err := e.server.Admit(fnapi.Admission{
		Status:         a.Status,
		Name:           a.Name,
		Options:        a.Options,
		RetrievalToken: a.Job,
		Dependencies:   a.Dependencies,
		Metadata:       a.Metadata,
		Artifacts:      jobArtifacts{e.artifacts, a.Job},
		Logs:           func(entries []fnapi.LogEntry) { e.post(a, entries) },
	})
	if err != nil {
		return nil, err
	}
	return &admitted{w}, nil
}

// post hands on what a worker said. A log that can't be written is not a reason
// to stop a worker.
//
// A LOOPBACK worker of the Go SDK sends all that its process logs, and its
// process is the client, which logs every message that it gets from us: of such
// a worker only what belongs to a bundle is the worker's own. The rest would go
// round for ever, and the user sees it in the client anyway.
func (e *endpoints) post(a harness.Admission, entries []fnapi.LogEntry) {
	client := e.stored.inClient(a.Job, a.EnvironmentID)
	out := make([]joblog.Entry, 0, len(entries))
	for _, l := range entries {
		if client && l.Instruction == "" {
			continue
		}
		text := l.Text
		if l.Trace != "" {
			text += "\n" + l.Trace
		}
		out = append(out, joblog.Entry{Time: l.Time, Level: messageLevel(l.Level), Origin: a.Name, Transform: l.Transform, Text: text})
	}
	if len(out) > 0 {
		_ = e.log(a.Job, out...)
	}
}

func messageLevel(l slog.Level) joblog.Level {
	switch {
	case l < slog.LevelInfo:
		return joblog.Debug
	case l < slog.LevelWarn:
		return joblog.Info
	case l < slog.LevelError:
		return joblog.Warn
	}
	return joblog.Error
}

// jobArtifacts are those of one job.
type jobArtifacts struct {
	all artifacts
	job string
}

func (j jobArtifacts) Open(ctx context.Context, a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	return j.all.Open(ctx, j.job, a)
}

// workerLanes is how many bundles one worker may have at a time: more than
// tasks will ever ask for, because a task that waits for a lane while another
// waits for its output would wait for ever. Bundles that run apart may have the
// rest.
func workerLanes(slots int) int { return 3 * dataListeners(slots) }

// dataListeners is how many of them have a data stream of their own.
func dataListeners(slots int) int { return max(8, 4*slots) }
