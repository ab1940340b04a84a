package remote

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/jobgraph"
	"trestle/runner/task"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient is how long a test waits for what must come.
const patient = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	t.Cleanup(cancel)
	return ctx
}

// recorder is a TaskManager that writes down what it is told.
type recorder struct {
	name    string
	has     task.Inventory
	told    chan any // specs, ids and so on
	reports chan task.Report
}

type released struct {
	job        string
	dataset    jobgraph.DatasetID
	partitions []task.Partition
}

func newRecorder(name string) *recorder {
	return &recorder{name: name, told: make(chan any, 10_000), reports: make(chan task.Report, 10)}
}

func (r *recorder) Name() string                                      { return r.name }
func (r *recorder) Slots() int                                        { return 4 }
func (r *recorder) Inventory(context.Context) (task.Inventory, error) { return r.has, nil }
func (r *recorder) Start(column []task.Spec)                          { r.told <- column }
func (r *recorder) Cancel(ids []task.ID)                              { r.told <- ids }
func (r *recorder) DrainJob(job string)                               { r.told <- "drain " + job }
func (r *recorder) Release(j string, d jobgraph.DatasetID, p []task.Partition) {
	r.told <- released{j, d, p}
}
func (r *recorder) ReleaseJob(job string)       { r.told <- job }
func (r *recorder) Reports() <-chan task.Report { return r.reports }

// jobManager is a Server that is served.
type jobManager struct {
	*Server
	addr     string
	sessions chan *Session // that have begun
}

func newJobManager(t *testing.T, cfg ServerConfig) *jobManager {
	t.Helper()
	return secureJobManager(t, cfg, cluster.Insecure())
}

func secureJobManager(t *testing.T, cfg ServerConfig, security *cluster.Security) *jobManager {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	l, err := security.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	jm := &jobManager{Server: NewServer(cfg), addr: l.Addr().String(), sessions: make(chan *Session, 100)}
	srv := cluster.NewServer(security, cluster.Options{})
	srv.Handle(jm.Methods()...)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return jm
}

// lead lets the JobManager lead until the returned function is called.
func (jm *jobManager) lead(t *testing.T, term uint64) (stop func()) {
	t.Helper()
	return jm.leadWith(t, term, func(_ context.Context, s *Session) error { jm.sessions <- s; return nil })
}

// leadWith is lead with what is done with each session.
func (jm *jobManager) leadWith(t *testing.T, term uint64, join func(context.Context, *Session) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { jm.Lead(ctx, term, join) })
	for !jm.leads().Leads {
		time.Sleep(time.Millisecond)
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// join gives the next session.
func (jm *jobManager) join(t *testing.T) *Session { t.Helper(); return receive(t, jm.sessions) }

// receive waits for something from a channel.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return v
	case <-time.After(patient):
		t.Fatalf("no %T came", *new(T))
	}
	panic("not reached")
}

// isClosed waits for the end of a channel.
func isClosed[T any](t *testing.T, c <-chan T) {
	t.Helper()
	select {
	case v, ok := <-c:
		if ok {
			t.Fatalf("%+v came instead of the end", v)
		}
	case <-time.After(patient):
		t.Fatal("the channel was not closed")
	}
}

// run runs a client of a TaskManager until the test ends or stop is called.
func run(t *testing.T, local Local, cfg ClientConfig, addrs ...string) (c *Client, stop func()) {
	t.Helper()
	peers := cluster.NewPeers(cluster.Insecure(), cluster.Options{Patience: time.Second})
	t.Cleanup(peers.Close)
	cfg.Local, cfg.JobManagers = local, addrs
	if cfg.Connections == nil {
		cfg.Connections = peers
	}
	c = NewClient(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return c, stop
}

// A wire is a proxy in front of a JobManager that fails as it is told.
type wire struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup
	delay    atomic.Int64 // nanoseconds, of each chunk
	made     atomic.Int64 // connections
	// up and down hold bytes back in one direction while they are true.
	up, down atomic.Bool

	mu     sync.Mutex
	conns  map[net.Conn]bool
	refuse bool
	closed bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: to, conns: map[net.Conn]bool{}}
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		w.closed = true
		w.mu.Unlock()
		w.cut()
		w.wg.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		w.mu.Lock()
		if w.closed || w.refuse {
			_, _ = in.Close(), out.Close()
			w.mu.Unlock()
			continue
		}
		w.conns[in], w.conns[out] = true, true
		w.made.Add(1)
		w.mu.Unlock()
		w.wg.Go(func() { w.carry(out, in, &w.up) })
		w.wg.Go(func() { w.carry(in, out, &w.down) })
	}
}

// carry copies one direction. What comes while it is held is lost with the
// connection, which must be cut then.
func (w *wire) carry(to, from net.Conn, held *atomic.Bool) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if d := w.delay.Load(); d > 0 {
			time.Sleep(time.Duration(d))
		}
		if n > 0 && !held.Load() {
			if _, err := to.Write(b[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
	w.mu.Lock()
	delete(w.conns, to)
	delete(w.conns, from)
	w.mu.Unlock()
}

// cut breaks all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

// open allows connections or refuses them.
func (w *wire) open(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = !yes
}

func id(n int) task.ID { return task.ID{Job: "j", Stage: "s1", Index: n, Attempt: 1} }

func spec1(n, slot int) task.Spec { return task.Spec{ID: id(n), Plan: "p", Slot: slot} }
