package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"trestle/fnapi"
	"trestle/harness"
	"trestle/internal/bucket"
	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/runner/joblog"
	"trestle/runner/task"
	"trestle/shuffle"
	"trestle/shuffle/blob"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"
	"trestle/shuffle/network"

	"golang.org/x/sync/errgroup"
)

// taskSideConfig is what a TaskManager's side of the house is made of.
type taskSideConfig struct {
	Name      string
	Dir       string // its own; what is temporary in it goes with it
	Slots     int
	Memory    int64 // the data's share of --memory
	Workers   int   // per environment; 0 for as many as are useful
	Processes harness.ProcessPolicy
	Artifacts artifacts
	Messages  func(job string, entries ...joblog.Entry) error
	Open      func(ctx context.Context, hash string) ([]byte, error) // a stored job
	Output    func(job, worker string, line []byte)                  // of worker processes; must not wait
	Start     time.Duration                                          // that a worker has to start; 0 for the default
	// Peer is the connection to another TaskManager; nil where there is none.
	Peer  func(ctx context.Context, taskManager string) (*cluster.Conn, error)
	Store *bucket.Bucket // for blocking partitions; nil keeps them here
	// Group is the id of the JobManagers' group, "" before one was met. Needed with
	// Store.
	Group func() string
	Log   *slog.Logger
}

// A taskSide is a TaskManager with all that it works with: the Fn API server,
// the pool of workers, shuffle.
type taskSide struct {
	TaskManager *task.TaskManager
	stored      *stored
	workers     *workers
	pool        *harness.Pool
	server      *fnapi.Server
	budget      *membudget.Budget
	network     *network.Server // of what is kept here, for others
	store       *blob.Driver    // of what is kept in an object store; nil without
	log         *slog.Logger
}

// newTaskSide opens listeners and directories. Run closes them.
func newTaskSide(cfg taskSideConfig) (*taskSide, error) {
	dirs := map[string]string{}
	for _, d := range []string{"shuffle", "spill", "workers"} {
		dirs[d] = filepath.Join(cfg.Dir, d)
		if d == "shuffle" {
			continue // what an earlier process has finished is there to be read
		}
		if err := os.RemoveAll(dirs[d]); err != nil {
			return nil, fmt.Errorf("clear what an earlier process left: %w", err)
		}
		if err := os.MkdirAll(dirs[d], 0o700); err != nil {
			return nil, err
		}
	}
	s := &taskSide{stored: newStored(cfg.Open), log: cfg.Log}
	lanes := workerLanes(cfg.Slots)
	var err error
	var addr string
	if s.server, addr, err = listenFnAPI(dataListeners(cfg.Slots), cfg.Log); err != nil {
		return nil, err
	}
	ep := &endpoints{server: s.server, addr: addr, artifacts: cfg.Artifacts, stored: s.stored, log: cfg.Messages}
	if s.pool, err = harness.New(ep, cfg.Artifacts, harness.Options{
		Dir: dirs["workers"], Lanes: lanes, Processes: cfg.Processes, Log: cfg.Log,
		Output: cfg.Output, StartTimeout: cfg.Start,
	}); err != nil {
		return nil, err
	}
	s.workers = &workers{pool: s.pool, stored: s.stored, perEnvironment: cfg.Workers, lanes: lanes}

	budget := membudget.New(cfg.Memory)
	s.budget = budget
	if err := s.joinShuffle(cfg, dirs["shuffle"], dirs["spill"]); err != nil {
		return nil, err
	}
	return s, nil
}

// joinShuffle makes the TaskManager with what it reads from and writes to.
func (s *taskSide) joinShuffle(cfg taskSideConfig, shuffleDir, spillDir string) error {
	disk, err := localdisk.New(shuffleDir, localdisk.Config{Budget: s.budget})
	if err != nil {
		return err
	}
	pipes := memory.New(memory.Config{Budget: s.budget, Dir: spillDir})
	drivers := map[string]driver.Driver{shuffle.Blocking: disk, shuffle.Pipelined: pipes}
	if cfg.Store != nil {
		s.store = blob.New(cfg.Store, blob.Config{Budget: s.budget, Dir: spillDir, Owner: cfg.Group})
		drivers[shuffle.Stored] = s.store
	}
	tc := task.Config{
		Name:     cfg.Name,
		Slots:    cfg.Slots,
		Shuffle:  shuffle.New(s.budget, drivers),
		Budget:   s.budget,
		Workers:  s.workers,
		Plans:    s.stored,
		Hide:     s.stored.hide,
		SpillDir: spillDir,
	}
	if cfg.Peer != nil {
		s.network = network.NewServer(network.ServerConfig{
			Budget:    s.budget,
			Blocking:  map[string]driver.Driver{shuffle.Blocking: disk},
			Pipelined: map[string]driver.Driver{shuffle.Pipelined: pipes},
		})
		tc.Peer = cfg.Peer
		tc.Network = network.NewClient(network.ClientConfig{Budget: s.budget, Peer: cfg.Peer})
	}
	s.TaskManager = task.New(tc)
	return nil
}

// listenFnAPI opens one loopback port for all services, one for the data of each
// lane and one for state. SDK workers always talk to a TaskManager on its own host.
func listenFnAPI(lanes int, log *slog.Logger) (*fnapi.Server, string, error) {
	var open []net.Listener
	listen := func() (net.Listener, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			open = append(open, l)
		}
		return l, err
	}
	fail := func(err error) (*fnapi.Server, string, error) {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
		return nil, "", fmt.Errorf("open ports for workers: %w", err)
	}
	control, err := listen()
	if err != nil {
		return fail(err)
	}
	data := make([]net.Listener, lanes)
	for i := range data {
		if data[i], err = listen(); err != nil {
			return fail(err)
		}
	}
	state, err := listen()
	if err != nil {
		return fail(err)
	}
	srv, err := fnapi.NewServer(fnapi.Options{Logger: log, State: state}, control, data)
	if err != nil {
		return fail(err)
	}
	return srv, control.Addr().String(), nil
}

// Run serves until ctx ends: then tasks stop first, their workers next, the
// Fn API last.
func (s *taskSide) Run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return s.server.Serve(serving) })
	g.Go(func() error {
		defer stop()
		err := s.TaskManager.Run(ctx)
		s.pool.Close()
		s.closeStore()
		return err
	})
	return g.Wait()
}

// storeWithin is how long deleting what nobody wants any more may hold up the end.
const storeWithin = 5 * time.Second

// closeStore has what was released deleted from the object store.
func (s *taskSide) closeStore() {
	if s.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeWithin)
	defer cancel()
	if err := s.store.Close(ctx); err != nil {
		s.log.Warn("shuffle objects that nobody needs are left in the object store", "err", err)
	}
}
