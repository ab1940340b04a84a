package harness

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"trestle/internal/invariant"
)

// The pause before a lost worker is started again doubles from firstPause to
// lastPause.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

type fleetID struct{ job, environment string }

// A fleet is the workers of one environment of one job. All fields below work
// are guarded by Pool.mu; methods without a word about it are called with it
// held.
type fleet struct {
	pool    *Pool
	request Request
	plan    plan
	shape   shape
	ctx     context.Context // ends when the fleet is halted
	cancel  context.CancelCauseFunc
	work    sync.WaitGroup // one for each member

	members []*member
	waiters list.List // of *waiter, longest waiting first
	proven  bool      // a worker has connected, so they can be started at all
	failed  error     // why no member lives; nil as long as one may come up

	staging sync.Once // the directory and what is staged into it; not under Pool.mu
	dir     string
	staged  error
}

// A member is one place in the fleet: a worker, and after its loss another.
type member struct {
	number   int
	stint    *stint // nil while no worker is connected
	starting bool   // and expected soon: not pausing between failures
	dead     bool   // given up
}

// A waiter is one Acquire under way.
type waiter struct {
	had    string        // Request.Had
	served chan struct{} // closed when lease or err is set
	lease  *Lease
	err    error
	place  *list.Element // nil when served
}

func newFleet(p *Pool, r Request, how plan) *fleet {
	f := &fleet{pool: p, request: r, plan: how, shape: shapeOf(how, r, p.options)}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	return f
}

// grow starts members up to the number.
func (f *fleet) grow(number int) {
	for f.failed == nil && f.ctx.Err() == nil && len(f.members) < min(number, f.shape.workers) {
		m := &member{number: len(f.members), starting: true}
		f.members = append(f.members, m)
		f.work.Go(func() { f.keep(m) })
	}
}

// wait queues for a lease. Of equally busy workers it is rather to be of the one
// with the ID had.
func (f *fleet) wait(had string) *waiter {
	w := &waiter{had: had, served: make(chan struct{})}
	w.place = f.waiters.PushBack(w)
	f.dispatch()
	return w
}

// giveUp takes a waiter out of the queue, or returns the lease that it was
// given in the meantime.
func (f *fleet) giveUp(w *waiter) *Lease {
	if w.place == nil {
		return w.lease
	}
	f.waiters.Remove(w.place)
	w.place = nil
	return nil
}

func (f *fleet) serve(w *waiter, lease *Lease, err error) {
	f.waiters.Remove(w.place)
	w.place, w.lease, w.err = nil, lease, err
	close(w.served)
}

// dispatch hands lanes to waiters, the longest waiting first: an idle worker's
// if there is one; else the waiter has a worker started and waits for it; else
// a lane of the worker that has the fewest leases. Among equals it is the one
// that the waiter had before.
func (f *fleet) dispatch() {
	for f.waiters.Len() > 0 && f.failed != nil {
		f.serve(f.waiters.Front().Value.(*waiter), nil, f.failed)
	}
	coming := 0 // waiters for whom a worker is on its way
	for e := f.waiters.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		best := f.leastLoaded(w.had)
		if best == nil || best.taken > 0 {
			f.grow(len(f.members) + 1 - max(0, f.starting()-coming))
			if coming < f.starting() {
				coming++
				continue
			}
		}
		if best == nil {
			return // all lanes are taken, or all members pause
		}
		lane := best.free()
		invariant.Check(lane >= 0, "worker %s has no free lane", best.worker.ID())
		best.lanes[lane] = true
		best.taken++
		f.serve(w, &Lease{Worker: best.worker, Lane: lane, fleet: f, stint: best}, nil)
	}
}

// starting counts the members that will connect soon.
func (f *fleet) starting() int {
	n := 0
	for _, m := range f.members {
		if m.starting {
			n++
		}
	}
	return n
}

// leastLoaded is the connected worker with the fewest leases among those with
// a free lane, or nil; of several the one with the ID had, else the first.
func (f *fleet) leastLoaded(had string) *stint {
	var best *stint
	for _, m := range f.members {
		s := m.stint
		switch {
		case s == nil || s.free() < 0:
		case best == nil || s.taken < best.taken, s.taken == best.taken && s.worker.ID() == had:
			best = s
		}
	}
	return best
}

func (f *fleet) release(s *stint, lane int) {
	s.lanes[lane] = false
	s.taken--
	select {
	case <-s.worker.Lost():
	default:
		s.useful = true
	}
	f.dispatch()
}

// halt ends the fleet: waiters fail, members stop. It doesn't wait for them.
func (f *fleet) halt(reason error) {
	f.failed = reason
	f.cancel(reason)
	f.dispatch()
}

// keep keeps one member's worker alive until the fleet is halted or there is no
// use in trying. It is the member's goroutine, without Pool.mu.
func (f *fleet) keep(m *member) {
	failures := 0
	for {
		useful, err := f.serveOnce(m)
		if f.ctx.Err() != nil {
			return
		}
		if useful {
			failures = 0
		}
		failures++
		f.pool.options.Log.Warn("worker lost", "job", f.request.Job, "environment", f.request.EnvironmentID, "error", err)
		var final *finalError
		if errors.As(err, &final) || failures > f.restarts() {
			f.bury(m, err)
			return
		}
		f.pause(m, failures)
	}
}

// restarts is how many failures in a row are borne: few until a worker has come
// up at all, because then it is most likely the command that is wrong, and its
// author waits for the error. Without Pool.mu.
func (f *fleet) restarts() int {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	if !f.proven {
		return min(1, f.shape.restarts)
	}
	return f.shape.restarts
}

// pause waits before the next try.
func (f *fleet) pause(m *member, failures int) {
	pause := time.NewTimer(min(firstPause<<min(failures-1, 10), lastPause))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-f.ctx.Done():
	}
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	m.starting = true
}

// bury gives a member up. With the last one the fleet has failed.
func (f *fleet) bury(m *member, err error) {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	m.dead, m.starting = true, false
	if f.failed == nil && !slices.ContainsFunc(f.members, func(m *member) bool { return !m.dead }) {
		f.failed = fmt.Errorf("environment %q: %w", f.request.EnvironmentID, err)
	}
	f.dispatch()
}

// serveOnce starts a worker, lets it be leased, and returns when it is lost or
// the fleet halted and nothing of it is left.
func (f *fleet) serveOnce(m *member) (useful bool, err error) {
	b, err := f.boot(workerName(f.request.EnvironmentID, m.number))
	if err != nil {
		f.pool.mu.Lock()
		m.starting = false
		f.dispatch()
		f.pool.mu.Unlock()
		return false, err
	}
	s := &stint{worker: b.worker, gone: make(chan struct{}), lanes: make([]bool, f.shape.lanes)}
	f.pool.mu.Lock()
	m.stint, m.starting, f.proven = s, false, true
	f.dispatch()
	f.pool.mu.Unlock()

	select {
	case <-b.worker.Lost():
	case <-b.instance.exited():
	case <-f.ctx.Done():
	}

	f.pool.mu.Lock()
	m.stint = nil
	useful = s.useful
	f.pool.mu.Unlock()

	err = f.lossOf(b)
	s.obituary = b.instance.obituary()
	close(s.gone)
	return useful, err
}

// lossOf ends what is left of a worker and says why it was lost.
func (f *fleet) lossOf(b booted) error {
	lost := b.worker.Err()
	f.hearOut(b)
	f.stopWorker(b)
	why := b.instance.obituary()
	if why == "" && lost != nil {
		why = lost.Error()
	}
	err := fmt.Errorf("%s was lost: %s", f.plan.describe(), why)
	if f.shape.loopback {
		return &finalError{fmt.Errorf("the client's own worker (LOOPBACK, %s) was lost, and can't be started a second time: %s", f.plan.describe(), why)}
	}
	return err
}

// lastWords is what a boot program has after its worker's end, to tell why: the
// Go SDK's puts the last heap profile into a bucket.
const lastWords = 5 * time.Second

// hearOut waits until a boot program whose worker is gone has ended by itself.
func (f *fleet) hearOut(b booted) {
	if how, ok := f.plan.launch.(*process); !ok || how.own || how.binary != nil {
		return // it has no boot program, or none that we could see end
	}
	wait := time.NewTimer(lastWords)
	defer wait.Stop()
	select {
	case <-b.instance.exited():
	case <-wait.C:
	case <-f.ctx.Done():
	}
}

// removeDir removes what the fleet's workers had on disk. Without Pool.mu.
func (f *fleet) removeDir() {
	// Makes a later staging impossible.
	f.staging.Do(func() { f.staged = ErrStopped })
	if f.dir != "" {
		if err := os.RemoveAll(f.dir); err != nil {
			f.pool.options.Log.Warn("remove the directory of workers", "error", err)
		}
	}
}

// workerName is how a worker is called among people. The environment's id
// comes from outside, so little of it is kept.
func workerName(environment string, number int) string {
	name := make([]byte, 0, 40)
	for _, c := range []byte(environment) {
		if len(name) < 40 && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			name = append(name, c)
		}
	}
	return fmt.Sprintf("%s-%d", name, number)
}
