package bundletest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle"
)

// Workers lends the lanes of fake workers, and starts another worker when none
// has a free one. It is a task.Workers, and Acquire with a job and environment
// bound is a bundle.Runner's.
type Workers struct {
	t      testing.TB
	server *fnapi.Server
	lanes  int
	fake   func(n int) *fnapitest.Harness

	mu      sync.Mutex
	workers []*worker
}

type worker struct {
	*fnapi.Worker
	harness *fnapitest.Harness
	taken   []bool
	ended   chan struct{}
}

// NewWorkers serves fake workers to the end of the test: fake gives the nth
// one's harness, from 0. Each has that many lanes.
func NewWorkers(t testing.TB, lanes int, fake func(n int) *fnapitest.Harness) *Workers {
	t.Helper()
	listeners := []net.Listener{}
	for range lanes + 1 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	s, err := fnapi.NewServer(fnapi.Options{Logger: slog.New(slog.DiscardHandler)}, listeners[0], listeners[1:])
	if err != nil {
		t.Fatal(err)
	}
	w := &Workers{t: t, server: s, lanes: lanes, fake: fake}
	ctx, cancel := context.WithCancel(context.Background())
	ended := async(func() error { return s.Serve(ctx) })
	t.Cleanup(func() {
		w.mu.Lock()
		all := w.workers
		w.mu.Unlock()
		for _, x := range all {
			x.Close()
			<-x.ended
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

// async runs f and gives its end.
func async(f func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	return ended
}

// Started is how many workers there have been.
func (w *Workers) Started() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.workers)
}

// Harness is the nth worker's.
func (w *Workers) Harness(n int) *fnapitest.Harness {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.workers[n].harness
}

// Leased is how many lanes are lent.
func (w *Workers) Leased() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, x := range w.workers {
		for _, taken := range x.taken {
			if taken {
				n++
			}
		}
	}
	return n
}

// Acquire lends a lane.
func (w *Workers) Acquire(ctx context.Context, _, _ string, _ *fnapi.Worker) (bundle.Lease, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.workers {
		select {
		case <-x.Lost():
			continue
		default:
		}
		for lane, taken := range x.taken {
			if !taken {
				x.taken[lane] = true
				return &lease{w, x, lane}, nil
			}
		}
	}
	x, err := w.start(ctx)
	if err != nil {
		return nil, err
	}
	x.taken[0] = true
	return &lease{w, x, 0}, nil
}

// start runs another worker. The lock is held.
func (w *Workers) start(ctx context.Context) (*worker, error) {
	if len(w.workers) > 50 {
		return nil, errors.New("fake workers die without end")
	}
	fw, err := w.server.Admit(fnapi.Admission{Name: "fake"})
	if err != nil {
		return nil, err
	}
	h := w.fake(len(w.workers))
	h.ID, h.URL = fw.ID(), fw.URL()
	x := &worker{Worker: fw, harness: h, taken: make([]bool, w.lanes), ended: make(chan struct{})}
	w.workers = append(w.workers, x)
	go func() {
		defer close(x.ended)
		_ = h.Run(context.Background()) // how it ends is the test's matter
	}()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return x, fw.Ready(ctx)
}

// StopJob does nothing: the workers end with the test.
func (w *Workers) StopJob(string) {}

// Failed does nothing: there is always another one.
func (w *Workers) Failed(string, string) error { return nil }

type lease struct {
	w    *Workers
	x    *worker
	lane int
}

func (l *lease) Worker() *fnapi.Worker { return l.x.Worker }
func (l *lease) Lane() int             { return l.lane }

func (l *lease) Obituary(ctx context.Context) string {
	select {
	case <-l.x.Lost():
		return "rest in peace"
	case <-ctx.Done():
		return ""
	}
}

func (l *lease) Release() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.x.taken[l.lane] = false
}
