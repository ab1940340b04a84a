package network_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"
	"trestle/shuffle/network"
	"trestle/shuffle/shuffletest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	blocking  = "blocking"
	pipelined = "pipelined"
)

// A rigConfig says what is different from the usual.
type rigConfig struct {
	budget  *membudget.Budget // of the server's side
	window  int64             // of readings
	pipe    int64             // window of pipelined partitions; 0: the default
	retry   time.Duration
	keep    time.Duration
	cutting bool // a proxy stands between
}

// A rig is a TaskManager's partitions, and a client that reads them over
// loopback.
type rig struct {
	disk   *localdisk.Driver
	pipes  *memory.Driver
	dir    string
	budget *membudget.Budget // of the server's side
	mine   *membudget.Budget // of the client's side
	client *network.Client
	proxy  *proxy
	addr   string

	mu   sync.Mutex
	stop func() // the server
	cfg  rigConfig
}

func newRig(t testing.TB, cfg rigConfig) *rig {
	t.Helper()
	if cfg.budget == nil {
		cfg.budget = membudget.New(256 << 20)
	}
	r := &rig{cfg: cfg, budget: cfg.budget, mine: membudget.New(64 << 20), dir: t.TempDir()}
	r.pipes = memory.New(memory.Config{Budget: r.budget, Dir: t.TempDir(), Window: cfg.pipe})
	r.openDisk(t)
	l := listen(t, "127.0.0.1:0")
	r.addr = l.Addr().String()
	r.serve(t, l)
	to := r.addr
	if cfg.cutting {
		r.proxy = newProxy(t, r.addr)
		to = r.proxy.addr
	}
	peers := cluster.NewPeers(cluster.Insecure(), cluster.Options{})
	r.client = network.NewClient(network.ClientConfig{
		Budget: r.mine, Window: cfg.window, Retry: cfg.retry,
		Peer: func(context.Context, string) (*cluster.Conn, error) { return peers.To(to), nil },
	})
	t.Cleanup(func() {
		peers.Close()
		r.halt()
		if used := r.mine.Used(); used != 0 {
			t.Errorf("%d bytes of the client's budget are still taken", used)
		}
	})
	return r
}

func (r *rig) openDisk(t testing.TB) {
	t.Helper()
	var err error
	if r.disk, err = localdisk.New(r.dir, localdisk.Config{Budget: r.budget}); err != nil {
		t.Fatal(err)
	}
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve starts a server on l.
func (r *rig) serve(t testing.TB, l net.Listener) {
	s := network.NewServer(network.ServerConfig{
		Budget:    r.budget,
		Blocking:  map[string]driver.Driver{blocking: r.disk},
		Pipelined: map[string]driver.Driver{pipelined: r.pipes},
		Keep:      r.cfg.keep,
	})
	cs := cluster.NewServer(cluster.Insecure(), cluster.Options{})
	cs.Handle(s.Methods()...)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := cs.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	r.stop = func() {
		cancel()
		done.Wait()
		s.Close()
	}
}

// halt ends the server.
func (r *rig) halt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// restart ends the server's process, so to say: another begins with its disk.
func (r *rig) restart(t testing.TB) {
	r.halt()
	r.openDisk(t)
	r.disk.Recover()
	r.pipes = memory.New(memory.Config{Budget: r.budget, Dir: t.TempDir(), Window: r.cfg.pipe})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serve(t, listen(t, r.addr))
}

// A remoteDriver is a rig as the suite wants it: written there, read here.
type remoteDriver struct {
	driver.Driver
	r    *rig
	once bool
}

func (d *remoteDriver) Open(ids []driver.PartitionID, lo, hi int) (driver.Reader, error) {
	open, exchange := d.r.client.Open, blocking
	if d.once {
		open, exchange = d.r.client.OpenOnce, pipelined
	}
	rd := open("tm-1", exchange, ids, lo, hi)
	if err := rd.Ready(context.Background()); err != nil {
		rd.Close()
		return nil, err
	}
	return rd, nil
}

// What every driver promises holds over the network.
func TestDrivers(t *testing.T) {
	for _, once := range []bool{false, true} {
		name := blocking
		if once {
			name = pipelined
		}
		t.Run(name, func(t *testing.T) {
			shuffletest.Run(t, shuffletest.Fixture{
				Pipelined: once, Remote: true,
				New: func(t *testing.T, budget *membudget.Budget) driver.Driver {
					r := newRig(t, rigConfig{budget: budget})
					if once {
						return &remoteDriver{r.pipes, r, true}
					}
					return &remoteDriver{r.disk, r, false}
				},
			})
		})
	}
}
