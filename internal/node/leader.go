package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/raftmeta/catalog"
	"trestle/runner"
)

// A lead is the way to the JobManager that decides: to the Dispatcher in this
// process while it leads, else to the process that does.
type lead struct {
	board *runner.Board
	group group
	peers *cluster.Peers // nil where there is nobody else

	mu         sync.Mutex
	dispatcher *runner.Dispatcher // while this process leads
	changed    chan struct{}      // closed and renewed when that changes
}

// A group is what the JobManagers have agreed upon.
type group interface {
	// Leader is the address of the JobManager that leads, as far as is known
	// here; false while there is none.
	Leader() (addr string, ok bool)
	// ReadIndex is a place in the log that holds everything that was
	// acknowledged before the call. It fails on all members but the leader.
	ReadIndex(ctx context.Context) (uint64, error)
	// WaitApplied waits until this process has seen the log up to that place.
	WaitApplied(ctx context.Context, index uint64) error
}

const (
	// askFor bounds how long a request waits for there to be a leader.
	askFor = 30 * time.Second
	// askAgain is the pause before a JobManager is asked again that doesn't lead
	// after all, or can't be reached.
	askAgain = 50 * time.Millisecond
)

// kindNotLeader is what a JobManager says that was taken for the leader.
const kindNotLeader = "not leader"

type (
	stopRequest struct {
		Job  string
		Mode catalog.StopMode
	}
	jobRequest struct{ Job string }
	// An indexed answer holds for who has seen the log up to there.
	indexed struct{ Index uint64 }
)

var (
	callSubmit  = cluster.NewCall[runner.Submission, indexed]("leader", "Submit")
	callStop    = cluster.NewCall[stopRequest, indexed]("leader", "Stop")
	callSync    = cluster.NewCall[struct{}, indexed]("leader", "Sync")
	callJob     = cluster.NewCall[jobRequest, runner.Job]("leader", "Job")
	callMetrics = cluster.NewCall[jobRequest, []runner.TaskMetrics]("leader", "Metrics")
)

// methods answer the other JobManagers.
func (l *lead) methods() []cluster.Method {
	return []cluster.Method{
		callSubmit.Serve(func(ctx context.Context, s *runner.Submission) (*indexed, error) {
			return l.answer(ctx, func(d *runner.Dispatcher) error { return d.Submit(ctx, *s) })
		}),
		callStop.Serve(func(ctx context.Context, r *stopRequest) (*indexed, error) {
			return l.answer(ctx, func(d *runner.Dispatcher) error { return d.Stop(ctx, r.Job, r.Mode) })
		}),
		callSync.Serve(func(ctx context.Context, _ *struct{}) (*indexed, error) {
			return l.answer(ctx, func(*runner.Dispatcher) error { return nil })
		}),
		callJob.Serve(func(_ context.Context, r *jobRequest) (*runner.Job, error) {
			if l.leading() == nil {
				return nil, notLeader()
			}
			return l.board.Job(r.Job)
		}),
		callMetrics.Serve(func(_ context.Context, r *jobRequest) (*[]runner.TaskMetrics, error) {
			if l.leading() == nil {
				return nil, notLeader()
			}
			m, err := l.board.Metrics(r.Job)
			return &m, err
		}),
	}
}

// answer does something with the Dispatcher for another process, which will see
// what it did once it has seen the log up to the index.
func (l *lead) answer(ctx context.Context, do func(*runner.Dispatcher) error) (*indexed, error) {
	d := l.leading()
	if d == nil {
		return nil, notLeader()
	}
	err := do(d)
	switch {
	case errors.Is(err, runner.ErrStopped):
		return nil, notLeader()
	case errors.Is(err, runner.ErrJobExists):
		return nil, &cluster.Error{Kind: kindExists, Text: err.Error()}
	case errors.Is(err, runner.ErrUnknownJob):
		return nil, &cluster.Error{Kind: kindUnknownJob, Text: err.Error()}
	case err != nil:
		return nil, err
	}
	index, err := l.group.ReadIndex(ctx)
	if err != nil {
		return nil, notLeader()
	}
	return &indexed{index}, nil
}

const (
	kindExists     = "job exists"
	kindUnknownJob = "unknown job"
)

func notLeader() error { return &cluster.Error{Kind: kindNotLeader, Text: "another JobManager leads"} }

// known turns what the leader said into what callers tell apart.
func known(err error) error {
	switch {
	case cluster.IsKind(err, kindExists):
		return runner.ErrJobExists
	case cluster.IsKind(err, kindUnknownJob):
		return runner.ErrUnknownJob
	}
	return err
}

// take makes d the way to go, nil for none: this process doesn't lead any more.
func (l *lead) take(d *runner.Dispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

// now tells whether this process leads, and gives a channel that is closed when
// that may have changed.
func (l *lead) now() (leads bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dispatcher != nil, l.changed
}

func (l *lead) leading() *runner.Dispatcher {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dispatcher
}

// Submit has the leader accept a job. It may be asked again and again: a job is
// accepted once.
func (l *lead) Submit(ctx context.Context, s runner.Submission) error {
	tried, before := false, false
	err := l.ask(ctx, func(ctx context.Context, d *runner.Dispatcher) error {
		err := d.Submit(ctx, s)
		if errors.Is(err, runner.ErrJobExists) && tried {
			before = true // an earlier leader took it before it was gone
			return nil
		}
		tried = true
		return err
	}, func(ctx context.Context, to *cluster.Conn) (*indexed, error) {
		at, err := callSubmit.Do(ctx, to, &s)
		if cluster.IsKind(err, kindExists) && tried {
			before = true
			return nil, nil
		}
		tried = true
		return at, err
	})
	if err == nil && before {
		return l.Sync(ctx) // so that it is seen here, too
	}
	return err
}

// Stop has the leader stop a job.
func (l *lead) Stop(ctx context.Context, job string, mode catalog.StopMode) error {
	return l.ask(ctx, func(ctx context.Context, d *runner.Dispatcher) error { return d.Stop(ctx, job, mode) },
		func(ctx context.Context, to *cluster.Conn) (*indexed, error) {
			return callStop.Do(ctx, to, &stopRequest{job, mode})
		})
}

// Sync returns when the board shows everything that was acknowledged, by
// whichever JobManager, before the call.
func (l *lead) Sync(ctx context.Context) error {
	return l.ask(ctx, func(ctx context.Context, _ *runner.Dispatcher) error {
		index, err := l.group.ReadIndex(ctx)
		if err != nil {
			return errNotLeading
		}
		return l.group.WaitApplied(ctx, index)
	}, func(ctx context.Context, to *cluster.Conn) (*indexed, error) {
		return callSync.Do(ctx, to, &struct{}{})
	})
}

// errNotLeading is a Dispatcher's end, to be asked elsewhere.
var errNotLeading = errors.New("this JobManager leads no more")

// ask goes to the leader, here or there, until one has answered.
func (l *lead) ask(ctx context.Context, here func(context.Context, *runner.Dispatcher) error, there func(context.Context, *cluster.Conn) (*indexed, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askFor, errors.New("no JobManager leads at the moment"))
	defer cancel()
	for {
		l.mu.Lock()
		d, changed := l.dispatcher, l.changed
		l.mu.Unlock()
		done, err := l.askOnce(ctx, d, here, there)
		if done {
			return known(err)
		}
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("the leader: %w", err)
		}
		pause := time.NewTimer(askAgain)
		select {
		case <-changed:
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(context.Cause(ctx), err)
		}
		pause.Stop()
	}
}

// askOnce is done unless it was the wrong process that was asked, or none.
func (l *lead) askOnce(ctx context.Context, d *runner.Dispatcher, here func(context.Context, *runner.Dispatcher) error, there func(context.Context, *cluster.Conn) (*indexed, error)) (done bool, err error) {
	if d != nil {
		err := here(ctx, d)
		return !errors.Is(err, runner.ErrStopped) && !errors.Is(err, errNotLeading), err
	}
	addr, ok := l.group.Leader()
	if !ok || l.peers == nil {
		return false, nil
	}
	at, err := there(ctx, l.peers.ToJobManager(addr))
	switch {
	case cluster.IsKind(err, kindNotLeader), cluster.IsUnreachable(err):
		return false, err
	case err != nil || at == nil:
		return true, err
	}
	return true, l.group.WaitApplied(ctx, at.Index)
}

// Job shows a job with what runs of it, which only the leader knows. Where it
// can't be asked, what the log says is shown.
func (l *lead) Job(ctx context.Context, id string) (*runner.Job, error) {
	if to := l.elsewhere(); to != nil {
		ctx, cancel := context.WithTimeout(ctx, showFor)
		defer cancel()
		if j, err := callJob.Do(ctx, to, &jobRequest{id}); err == nil {
			return j, nil
		}
	}
	return l.board.Job(id)
}

// Metrics are a job's, with those of running tasks where the leader tells them.
func (l *lead) Metrics(ctx context.Context, id string) ([]runner.TaskMetrics, error) {
	if to := l.elsewhere(); to != nil {
		ctx, cancel := context.WithTimeout(ctx, showFor)
		defer cancel()
		if m, err := callMetrics.Do(ctx, to, &jobRequest{id}); err == nil {
			return *m, nil
		}
	}
	return l.board.Metrics(id)
}

// showFor is how long the leader is asked for what is nice to know.
const showFor = 3 * time.Second

// elsewhere is the connection to the leader if it is another process.
func (l *lead) elsewhere() *cluster.Conn {
	if l.leading() != nil || l.peers == nil {
		return nil
	}
	addr, ok := l.group.Leader()
	if !ok {
		return nil
	}
	return l.peers.ToJobManager(addr)
}
