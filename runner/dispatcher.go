package runner

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"
)

// Errors that callers tell apart.
var (
	ErrUnknownJob = errors.New("unknown job")
	ErrJobExists  = errors.New("job exists")
	ErrJobEnded   = errors.New("job has ended")
	// ErrStopped is for calls that come before Run has replayed the journal or
	// after it has returned.
	ErrStopped = errors.New("dispatcher is not running")
)

// Messages takes the lines that are meant for a job's author. Post must not
// wait, and may be called from any goroutine.
type Messages interface {
	Post(job string, at time.Time, level slog.Level, text string)
}

// Config is what a Dispatcher works with.
type Config struct {
	Journal Journal
	// TaskManagers join when Run starts; others may Join later.
	TaskManagers []TaskManager
	Policy       schedule.Policy // the zero value is good
	Messages     Messages        // may be nil
	Log          *slog.Logger    // may be nil
}

// A Submission is a planned job.
type Submission struct {
	ID       string
	Name     string
	Options  json.RawMessage // secrets redacted
	Pipeline catalog.Hash    // in the blob store
	Plan     catalog.Hash    // in the blob store
	Graph    *jobgraph.Graph // the plan's, after region.Compute
	Priority int             // share of slots; each step doubles it
	// Restart overrides the policy's strategy when its Kind is set.
	Restart catalog.RestartStrategy
}

// A Dispatcher runs jobs. All methods may be called from any goroutine.
type Dispatcher struct{}

// New returns a Dispatcher that does nothing until Run.
func New(cfg Config) *Dispatcher { return &Dispatcher{} }

// Run replays the journal, takes up every job that has not ended and runs jobs
// until ctx ends or the journal fails. When it returns, no goroutine of the
// Dispatcher is left. Tasks that still run are not stopped: that is their
// TaskManagers' work, and a later Dispatcher takes them up.
func (d *Dispatcher) Run(ctx context.Context) error { return nil }

// Ready is closed when the journal is replayed and jobs can be submitted.
func (d *Dispatcher) Ready() <-chan struct{} { return nil }

// Join adds a TaskManager, or one that was lost and has come back.
func (d *Dispatcher) Join(ctx context.Context, tm TaskManager) error { return nil }

// Submit accepts a job: when it returns nil the job is durable and will run to
// its end. Submitting the same id again is ErrJobExists.
func (d *Dispatcher) Submit(ctx context.Context, s Submission) error { return nil }

// Cancel asks a job to end; it is CANCELLED when its tasks have stopped.
// Cancel returns when the request is durable. Cancelling a job that is being
// cancelled or has ended does nothing.
func (d *Dispatcher) Cancel(ctx context.Context, job string) error { return nil }

// Drain asks a job to end early but whole: no new input is taken, what has
// begun is worked off. A bounded job has all its input already and simply runs
// to its end, DRAINED.
func (d *Dispatcher) Drain(ctx context.Context, job string) error { return nil }

// Jobs are all jobs, running and ended, the oldest first.
func (d *Dispatcher) Jobs() []Summary { return nil }

// Job shows one job. Large jobs make large answers: ask when asked.
func (d *Dispatcher) Job(id string) (*Job, error) { return nil, nil }

// Metrics are the encoded metrics of a job's tasks: those that have finished,
// and the latest that running ones have reported.
func (d *Dispatcher) Metrics(id string) ([]TaskMetrics, error) { return nil, nil }

// Watch yields the states that a job comes to, from the one it is in, each
// once. It ends after a terminal state, which is never left out, or when ctx
// ends or Run returns.
func (d *Dispatcher) Watch(ctx context.Context, id string) (iter.Seq[Status], error) {
	return nil, nil
}
