package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"

	"golang.org/x/sync/errgroup"
)

// Errors that callers tell apart.
var (
	ErrUnknownJob = errors.New("unknown job")
	ErrJobExists  = errors.New("job exists")
	// ErrStopped is for calls that come after Run has returned.
	ErrStopped = errors.New("the JobManager has stopped")
)

// Config is what a Dispatcher works with.
type Config struct {
	Journal Journal
	Board   *Board // is told of records by who keeps the log
	// TaskManagers join when Run starts; others may Join later. They must be
	// stopped after Run has returned: one that stops before is lost, and its
	// tasks are to be started elsewhere.
	TaskManagers []TaskManager
	Policy       schedule.Policy // the zero value is good
	Sources      Sources         // may be nil if no job reads from a bounded source
	// Reconcile is how long those TaskManagers are waited for, after a start,
	// that the log knows of; 0 is 5 s. Until then nothing is started and nothing
	// is taken to be lost.
	Reconcile time.Duration
	Log       *slog.Logger // may be nil
}

// A Submission is a planned job.
type Submission struct {
	ID       string
	Name     string
	Options  json.RawMessage // secrets redacted
	Pipeline catalog.Hash    // in the blob store
	Plan     catalog.Hash    // in the blob store
	Graph    *jobgraph.Graph // the plan's, after region.Compute; not changed any more
	Priority int             // share of slots; each step doubles it
	// MaxParallelism bounds the tasks of a stage; 0 leaves them to the policy.
	MaxParallelism int
	// Restart overrides the policy's strategy when its Kind is set.
	Restart catalog.RestartStrategy
}

// A Dispatcher runs jobs. All methods may be called from any goroutine; those
// that change something wait until Run has replayed the journal.
type Dispatcher struct {
	journal   Journal
	initial   []TaskManager
	policy    schedule.Policy
	sources   Sources
	reconcile time.Duration
	log       *slog.Logger

	board   *Board
	inbox   chan input    // what happens, for the loop; senders wait when it is full
	commits chan batch    // what was decided, for the committer; the loop waits when it is full
	ready   chan struct{} // closed when the journal is replayed
	stopped chan struct{} // closed when Run returns
}

const (
	inboxSize   = 1024
	commitsSize = 64

	reconcileDefault = 5 * time.Second
)

// New returns a Dispatcher that does nothing until Run.
func New(cfg Config) *Dispatcher {
	d := &Dispatcher{
		journal: cfg.Journal, initial: cfg.TaskManagers, policy: cfg.Policy.WithDefaults(),
		reconcile: cmp.Or(cfg.Reconcile, reconcileDefault), log: cfg.Log,
		sources: cfg.Sources,
		board:   cfg.Board,
		inbox:   make(chan input, inboxSize),
		commits: make(chan batch, commitsSize),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Run replays the journal, takes up every job that has not ended and runs jobs
// until ctx ends, which is nil, or the journal fails. When it returns, no
// goroutine of the Dispatcher is left. Tasks that still run are not stopped:
// that is their TaskManagers' work, and a later Dispatcher takes them up. Run
// is called once.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer close(d.stopped)
	defer d.board.abandon()
	l := &loop{d: d, state: catalog.NewState(), seen: schedule.NewSeen(), managers: map[string]TaskManager{}, leaving: map[string]Leaver{}}
	if err := d.journal.Replay(ctx, l.state.Apply); err != nil {
		return err
	}
	var joins []joining
	for _, tm := range d.initial {
		j, err := inventory(ctx, tm)
		if err != nil {
			return err
		}
		joins = append(joins, j)
	}
	g, ctx := errgroup.WithContext(ctx)
	l.group = g
	for _, j := range joins {
		l.join(ctx, j)
	}
	l.giveUpAt = time.Now().Add(d.reconcile)
	close(d.ready)
	g.Go(func() error { return l.run(ctx) })                        // alone touches state and seen
	g.Go(func() error { return d.commitAll(ctx, newBinder(d, g)) }) // alone appends and acts
	if err := g.Wait(); !errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// errEnded stops the Dispatcher's goroutines when its context has ended.
var errEnded = errors.New("context ended")

// Ready is closed when the journal is replayed.
func (d *Dispatcher) Ready() <-chan struct{} { return d.ready }

// Join adds a TaskManager, or one that was lost and has come back.
func (d *Dispatcher) Join(ctx context.Context, tm TaskManager) error {
	j, err := inventory(ctx, tm)
	if err != nil {
		return err
	}
	return d.ask(ctx, func(reply chan<- error) input {
		j.reply = reply
		return j
	})
}

// Submit accepts a job: when it returns nil the job is durable and will run to
// its end. Submitting an id again is ErrJobExists, so that a client that didn't
// hear the answer may ask again.
func (d *Dispatcher) Submit(ctx context.Context, s Submission) error {
	r, err := d.accepted(s)
	if err != nil {
		return fmt.Errorf("submit job %q: %w", s.ID, err)
	}
	return d.ask(ctx, func(reply chan<- error) input { return submission{r, reply} })
}

// accepted makes the record of a submission, and checks that it is one that
// the journal and the catalog take: a bad job must not stop the others.
func (d *Dispatcher) accepted(s Submission) (*catalog.JobAccepted, error) {
	r := &catalog.JobAccepted{
		Job: catalog.JobID(s.ID), Name: s.Name, At: catalog.At(time.Now()),
		Pipeline: s.Pipeline, Plan: s.Plan, Graph: s.Graph, Priority: s.Priority,
		KeyGroups: d.policy.KeyGroups, Restart: s.Restart, MaxParallelism: s.MaxParallelism,
	}
	if r.Restart.Kind == "" {
		r.Restart = d.policy.Restart
	}
	if len(s.Options) > 0 {
		// In the form that the journal gives back.
		options, err := json.Marshal(s.Options)
		if err != nil {
			return nil, fmt.Errorf("options: %w", err)
		}
		r.Options = options
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	_, err := catalog.Encode(r)
	return r, err
}

// Cancel asks a job to end; it is CANCELLED when its tasks have stopped.
// Cancel returns when the request is durable. Cancelling a job that is being
// cancelled or has ended does nothing.
func (d *Dispatcher) Cancel(ctx context.Context, job string) error {
	return d.Stop(ctx, job, catalog.StopCancel)
}

// Drain asks a job to end early but whole: no new input is taken, what has
// begun is worked off. A bounded job has all its input already and simply runs
// to its end, DRAINED.
func (d *Dispatcher) Drain(ctx context.Context, job string) error {
	return d.Stop(ctx, job, catalog.StopDrain)
}

// Stop is Cancel or Drain.
func (d *Dispatcher) Stop(ctx context.Context, job string, mode catalog.StopMode) error {
	return d.ask(ctx, func(reply chan<- error) input {
		return stopping{catalog.JobID(job), mode, reply}
	})
}

// ask hands a request to the loop and waits for the answer.
func (d *Dispatcher) ask(ctx context.Context, request func(reply chan<- error) input) error {
	reply := make(chan error, 1)
	select {
	case d.inbox <- request(reply):
	case <-d.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-d.stopped:
		select {
		case err := <-reply: // it came first after all
			return err
		default:
			return ErrStopped
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}
