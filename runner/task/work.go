package task

import (
	"context"

	"trestle/runner/bundle"
)

// work is one task's side of its stage's queue, wherever that is kept. One
// goroutine uses it, but for split and stillHungry, which a running bundle calls.
type work interface {
	// pull waits for work; nil means that the stage is done. Each pull that gives
	// something is followed by done or leave.
	pull(ctx context.Context) (*pulled, error)
	// done ends the bundle that pull began: kept is what splits left of it to the
	// task, rest its self-checkpoint. It has been noted when done returns.
	done(ctx context.Context, kept [][]byte, rest []bundle.Residual) error
	// split notes that the task keeps less of what it has pulled, and that others
	// may have the rest. If that fails, the next done fails.
	split(kept [][]byte, rest []bundle.Residual)
	// hungry gives a token when a task begins to wait, stillHungry tells whether
	// one waits.
	hungry() <-chan struct{}
	stillHungry() bool
	// leave ends the attempt, with its error or nil.
	leave(err error)
}

// openWork enters the queue of the task's stage.
func (r *run) openWork(ctx context.Context) (work, error) {
	if at := r.spec.QueueAt; at != "" && at != r.m.cfg.Name {
		return r.enterRemote(ctx, at)
	}
	q := r.m.queue(r.spec)
	log, err := q.enter(r.spec.Index, r.spec.Attempt)
	if err != nil {
		return nil, err
	}
	return &localWork{q: q, log: log}, nil
}

// localWork is work of a queue in this process.
type localWork struct {
	q      *queue
	log    *taskLog
	number uint64
	splits uint64 // counted over all pulls
}

func (w *localWork) pull(ctx context.Context) (*pulled, error) {
	w.number++
	return w.q.pull(ctx, w.log, w.number)
}

func (w *localWork) done(_ context.Context, kept [][]byte, rest []bundle.Residual) error {
	return w.q.done(w.log, w.number, kept, rest)
}

func (w *localWork) split(kept [][]byte, rest []bundle.Residual) {
	w.splits++
	// If another attempt has begun, done fails, too.
	_ = w.q.split(w.log, w.number, w.splits, kept, rest)
}

func (w *localWork) hungry() <-chan struct{} { return w.q.hungry }
func (w *localWork) stillHungry() bool       { return w.q.stillHungry() }

func (w *localWork) leave(err error) {
	if err != nil {
		w.q.stop(w.log)
	}
}

// queue returns the queue that the tasks of a stage share.
func (m *TaskManager) queue(spec Spec) *queue {
	k := queueKey{spec.Job, spec.Stage, spec.Queue}
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[k]
	if q == nil {
		open := func(ctx context.Context) (*readSource, error) { return m.openQueue(ctx, spec) }
		q = newQueue(open, spec.Parallelism, m.cfg.Budget, m.cfg.SpillDir)
		m.queues[k] = q
	}
	return q
}

// openQueue opens what a queue is fed from: the whole input of the stage, which
// each of its tasks is told.
func (m *TaskManager) openQueue(ctx context.Context, spec Spec) (*readSource, error) {
	prog, err := m.program(ctx, spec)
	if err != nil {
		return nil, err
	}
	r := &run{m: m, spec: spec, prog: prog}
	return r.openRead(ctx)
}
