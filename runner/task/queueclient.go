package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/bundle"
	"trestle/shuffle"
)

const (
	queuePause     = 50 * time.Millisecond // before asking again; doubles
	queuePauseMost = time.Second
	// queueCall bounds one question, long polls included.
	queueCall = longPoll + 5*time.Second
	// hungryCall bounds the question whether a task waits, which a running bundle
	// waits for.
	hungryCall = time.Second
)

// A QueueError is a queue of restrictions that can't be used: its keeper isn't
// reached, or doesn't know it any more.
type QueueError struct {
	TaskManager string
	Err         error
}

func (e *QueueError) Error() string {
	return fmt.Sprintf("the stage's queue of restrictions at TaskManager %s: %v", e.TaskManager, e.Err)
}

// Unwrap gives the reason.
func (e *QueueError) Unwrap() error { return e.Err }

// remoteWork is work of a queue that another TaskManager keeps.
type remoteWork struct {
	m   *TaskManager
	at  string
	ref queueRef

	hand   [][]byte // as the keeper knows it; written by pull and, within a bundle, split
	splits uint64   // number of the bundle's last split
	busy   atomic.Bool
	token  chan struct{} // of capacity 1: another task has begun to wait

	ctx    context.Context // of the attempt; ends with leave
	cancel context.CancelFunc
	asking sync.WaitGroup // the goroutine that listens for hunger

	mu  sync.Mutex
	err error // of a split
}

// enterRemote enters a queue that another TaskManager keeps.
func (r *run) enterRemote(ctx context.Context, at string) (work, error) {
	if r.m.cfg.Peer == nil {
		return nil, &QueueError{at, errors.New("this TaskManager knows of no other")}
	}
	w := &remoteWork{
		m: r.m, at: at, ref: queueRef{ID: r.spec.ID, Generation: r.spec.Queue},
		token: make(chan struct{}, 1),
	}
	began, ref := time.Now(), w.ref
	ref.Wait = r.m.cfg.QueueRetry
	for {
		out, err := ask(ctx, w, queueEnter, &ref, r.m.cfg.QueueRetry)
		if err != nil {
			return nil, err
		}
		if !out.Again {
			break
		}
		if time.Since(began) > 3*r.m.cfg.QueueRetry {
			return nil, &QueueError{at, errNoQueue}
		}
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.asking.Go(w.listen)
	return w, nil
}

// ask calls the keeper, again for a bounded time while it isn't reached.
func ask[In any](ctx context.Context, w *remoteWork, call cluster.Call[In, queueAnswer], in *In, retry time.Duration) (*queueAnswer, error) {
	began := time.Now()
	for pause := queuePause; ; pause = min(2*pause, queuePauseMost) {
		out, err := askOnce(ctx, w, call, in, queueCall)
		switch {
		case err == nil:
			return out, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case cluster.IsKind(err, kindFollowed):
			return nil, &QueueError{w.at, errFollowed}
		case cluster.IsKind(err, kindNoQueue):
			return nil, &QueueError{w.at, errNoQueue}
		case cluster.IsKind(err, kindLost):
			return nil, lostOf(err)
		case !passes(err) || time.Since(began) > retry:
			return nil, &QueueError{w.at, err}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lostOf is the keeper's error about partitions that feed the queue.
func lostOf(err error) error {
	answer := (*cluster.Error)(nil)
	errors.As(err, &answer)
	var ids []shuffle.PartitionID
	if json.Unmarshal([]byte(answer.Detail), &ids) != nil || len(ids) == 0 {
		return err
	}
	var all []*shuffle.PartitionError
	for _, id := range ids {
		all = append(all, &shuffle.PartitionError{Partition: id, Err: err})
	}
	return shuffle.Lost(all)
}

// passes reports whether asking again may help.
func passes(err error) bool {
	answer := (*cluster.Error)(nil)
	return !errors.As(err, &answer)
}

func askOnce[In any](ctx context.Context, w *remoteWork, call cluster.Call[In, queueAnswer], in *In, limit time.Duration) (*queueAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := w.m.cfg.Peer(ctx, w.at)
	if err != nil {
		return nil, err
	}
	return call.Do(ctx, conn, in)
}

func (w *remoteWork) pull(ctx context.Context) (*pulled, error) {
	w.ref.Number++
	ref := w.ref
	for {
		out, err := ask(ctx, w, queuePull, &ref, w.m.cfg.QueueRetry)
		switch {
		case err != nil:
			return nil, err
		case out.Over:
			return nil, nil
		case out.Again:
			continue
		}
		p := &pulled{items: out.Items, pinned: out.Pinned}
		w.hand, w.splits = p.items, 0
		w.busy.Store(true)
		return p, nil
	}
}

func (w *remoteWork) done(ctx context.Context, kept [][]byte, rest []bundle.Residual) error {
	w.busy.Store(false)
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err != nil {
		return err
	}
	n := &queueNote{queueRef: w.ref, Kept: kept, Rest: rest}
	if slices.EqualFunc(kept, w.hand, slices.Equal) {
		n.Kept, n.Same = nil, true
	}
	_, err = ask(ctx, w, queueDone, n, w.m.cfg.QueueRetry)
	return err
}

func (w *remoteWork) split(kept [][]byte, rest []bundle.Residual) {
	w.splits++
	w.hand = kept
	n := &queueNote{queueRef: w.ref, Split: w.splits, Kept: kept, Rest: rest}
	if _, err := ask(w.ctx, w, queueSplit, n, w.m.cfg.QueueRetry); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}
}

func (w *remoteWork) hungry() <-chan struct{} { return w.token }

func (w *remoteWork) stillHungry() bool {
	ref := w.ref
	ref.At = true
	out, err := askOnce(w.ctx, w, queueHungry, &ref, hungryCall)
	return err == nil && out.Hungry
}

// listen waits for hunger as long as the attempt lasts. It also shows the keeper
// that the task is alive.
func (w *remoteWork) listen() {
	ref := queueRef{ID: w.ref.ID, Generation: w.ref.Generation}
	for pause := queuePause; w.ctx.Err() == nil; {
		out, err := askOnce(w.ctx, w, queueHungry, &ref, queueCall)
		if err != nil {
			select { // whether it is lost is for pull and done to say
			case <-time.After(pause):
			case <-w.ctx.Done():
			}
			pause = min(2*pause, queuePauseMost)
			continue
		}
		pause = queuePause
		if out.Hungry && w.busy.Load() {
			select {
			case w.token <- struct{}{}:
			default:
			}
		}
	}
}

func (w *remoteWork) leave(err error) {
	w.cancel()
	w.asking.Wait()
	if err == nil {
		return
	}
	// Others need not wait until this one's silence is noticed. If that isn't
	// heard, it will be.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = askOnce(ctx, w, queueStop, &w.ref, time.Second)
}
