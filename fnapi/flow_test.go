package fnapi_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
)

// A worker that doesn't read holds back its input, with a bounded number of
// bytes under way; its other lanes go on; and the sender can give up.
func TestBackPressure(t *testing.T) {
	s := serve(t, 2)
	until := make(chan struct{})
	defer close(until)
	w := connect(t, s, &fnapitest.Harness{Behave: func(n int, _ string) fnapitest.Behaviour {
		if n == 1 {
			return fnapitest.Behaviour{Fault: fnapitest.Delay, Until: until}
		}
		return fnapitest.Behaviour{}
	}})
	works(t, w, 0) // the worker opens the stream of lane 0
	start := echo(w, 0, "out")
	start.Output = &collector{}
	b, err := w.Start(withTimeout(t), start)
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	sent := make(chan int)
	go func() {
		defer close(sent)
		for n := 1; ; n++ {
			if err := b.Send(ctx, "in", make([]byte, 1<<20)); err != nil {
				if !errors.Is(err, stop) {
					t.Errorf("Send: %v", err)
				}
				return
			}
			sent <- n
		}
	}()
	n := drain(sent)
	if n > 64 {
		t.Errorf("%d MiB were sent to a worker that does not read", n)
	}
	works(t, w, 1)
	cancel(stop)
	<-sent
	b.Abort(stop)
	if _, err := b.Wait(withTimeout(t)); !errors.Is(err, stop) {
		t.Errorf("Wait: %v", err)
	}
}

// drain returns the last number when no further one comes for a while.
func drain(c <-chan int) (last int) {
	for {
		select {
		case n := <-c:
			last = n
		case <-time.After(300 * time.Millisecond):
			return last
		}
	}
}

// Wait gives up with its context; the bundle is over then, and an answer that
// comes later is nobody's.
func TestWaitEnds(t *testing.T) {
	s := serve(t, 1)
	until := make(chan struct{})
	w := connect(t, s, &fnapitest.Harness{Behave: func(n int, _ string) fnapitest.Behaviour {
		if n == 0 {
			return fnapitest.Behaviour{Fault: fnapitest.Delay, Until: until}
		}
		return fnapitest.Behaviour{}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	start := echo(w, 0, "out")
	start.Output = &collector{}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	<-b.Done()
	close(until)
	works(t, w, 0)
}

// A worker whose connection is dead, though nobody closed it, is noticed.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	s := serveWith(t, 1, fnapi.Options{Keepalive: time.Second})
	w, err := s.Admit(fnapi.Admission{})
	if err != nil {
		t.Fatal(err)
	}
	wire := newWire(t, w.URL())
	h := &fnapitest.Harness{ID: w.ID(), URL: wire.url()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	if err := w.Ready(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Ping(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	wire.cut()
	select {
	case <-w.Lost():
	case <-withTimeout(t).Done():
		t.Error("the worker is not noticed to be lost")
	}
}

// A wire forwards one connection's bytes until it is cut; then it swallows
// them, and closes nothing.
type wire struct {
	listener net.Listener
	dead     atomic.Bool
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l}
	var ends sync.WaitGroup
	ends.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			near.Close()
			return
		}
		t.Cleanup(func() { near.Close(); far.Close(); ends.Wait() })
		ends.Go(func() { w.forward(near, far) })
		w.forward(far, near)
	})
	t.Cleanup(func() { l.Close() })
	return w
}

func (w *wire) url() string { return w.listener.Addr().String() }
func (w *wire) cut()        { w.dead.Store(true) }

func (w *wire) forward(from, to net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if !w.dead.Load() {
			_, _ = to.Write(buf[:n])
		}
	}
}

// A bundle whose last marks never come ends with its context, one whose worker
// is withdrawn ends at once.
func TestDroppedMarks(t *testing.T) {
	s := serve(t, 1)
	w := connect(t, s, &fnapitest.Harness{Behave: func(int, string) fnapitest.Behaviour {
		return fnapitest.Behaviour{Fault: fnapitest.DropLast}
	}})
	ctx := withTimeout(t)
	start := echo(w, 0, "out")
	start.Output = &collector{}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.CloseInput(ctx, []string{"in"}, nil); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := b.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	b, err = w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	var lost *fnapi.WorkerLostError
	if _, err := b.Wait(ctx); !errors.As(err, &lost) || !errors.Is(err, fnapi.ErrClosed) {
		t.Errorf("Wait after Close: %v", err)
	}
}
