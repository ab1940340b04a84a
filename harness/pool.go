package harness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"trestle/harness/child"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Options of a Pool. The zero value is good.
type Options struct {
	// Dir is where workers have their directories, each in a folder of its job;
	// the system's temporary directory if empty. The folders that an earlier
	// process left in it are removed.
	Dir string
	// Cores is the number of processes that are useful where a worker uses one
	// core only; GOMAXPROCS if 0.
	Cores int
	// Lanes is the default of Request.Lanes; 8 if 0.
	Lanes int
	// StartTimeout bounds the time from the start of a worker to its control
	// stream, 1 minute if 0; DialTimeout the time until an external worker pool
	// answers, 10 s if 0.
	StartTimeout, DialTimeout time.Duration
	// StopGrace is what a process has to end by itself, first after its control
	// stream has ended and again after SIGTERM; 1 s if 0.
	StopGrace time.Duration
	// MaxRestarts bounds how often in a row a worker is started again that ended
	// without having finished anything; 4 if 0.
	MaxRestarts int
	// Processes says which commands PROCESS environments may run.
	Processes ProcessPolicy
	// Self is the program that is started with the argument harness for Trestle's
	// own transforms; this one if empty.
	Self string
	// Output is given each line that a worker process writes to its standard
	// output or error, and the worker's name. It must not block; the bytes are valid during the call.
	Output func(job, worker string, line []byte)
	// Log tells of workers that were started, lost and stopped.
	Log *slog.Logger
	// Engine is the container engine's program; looked for if empty.
	Engine string
}

// A ProcessPolicy says what of a client's may be run as a process here. The
// zero value allows everything, which is right for clients on this host.
type ProcessPolicy struct {
	// Restricted refuses all PROCESS commands but the Allowed ones, and the
	// native boot of staged binaries.
	Restricted bool
	Allowed    []string // commands, as they stand in environments
}

func (o Options) withDefaults() Options {
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Cores == 0 {
		o.Cores = runtime.GOMAXPROCS(0)
	}
	o.Lanes = max(o.Lanes, 0)
	if o.Lanes == 0 {
		o.Lanes = 8
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = time.Minute
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.StopGrace == 0 {
		o.StopGrace = time.Second
	}
	if o.MaxRestarts == 0 {
		o.MaxRestarts = 4
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// A Pool holds the workers of all jobs of one TaskManager.
type Pool struct {
	endpoints Endpoints
	artifacts Artifacts
	options   Options
	children  child.Keeper
	engine    engine

	mu     sync.Mutex
	closed bool
	fleets map[fleetID]*fleet // none of a stopped job
}

// dirPattern names the folders of the pool in Options.Dir.
const dirPattern = "trestle-workers-*"

// ErrStopped is what Acquire returns when the job's workers have been stopped.
var ErrStopped = errors.New("the job's workers have been stopped")

// New returns a pool without workers.
func New(endpoints Endpoints, artifacts Artifacts, options Options) (*Pool, error) {
	options = options.withDefaults()
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory for workers: %w", err)
	}
	return &Pool{
		endpoints: endpoints,
		artifacts: artifacts,
		options:   options,
		engine:    engine{program: options.Engine},
		fleets:    map[fleetID]*fleet{},
	}, nil
}

// Check says whether workers of the environment could be started here. What is
// wrong comes with what would be right, for the author of the pipeline. It
// starts nothing, but may ask whether a container engine is there.
func (p *Pool) Check(env *pipepb.Environment) error {
	_, err := p.plan(env)
	return err
}

// Warm begins to start all workers that a request would be given, and doesn't
// wait for them.
func (p *Pool) Warm(r Request) error {
	f, err := p.fleet(r)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.grow(f.shape.workers)
	return nil
}

// Acquire waits for a worker with a free lane, starting workers as needed and
// allowed. Idle workers come first. It fails when no worker of the environment
// can be started, with all that is known about the reason.
func (p *Pool) Acquire(ctx context.Context, r Request) (*Lease, error) {
	f, err := p.fleet(r)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	w := f.wait(r.Had)
	p.mu.Unlock()

	select {
	case <-w.served:
		return w.lease, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	given := f.giveUp(w)
	p.mu.Unlock()
	given.Release()
	return nil, context.Cause(ctx)
}

// Failed tells why no worker of a job's environment can be had any more, as
// Acquire would; nil if one may be.
func (p *Pool) Failed(job, environment string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.fleets[fleetID{job, environment}]; f != nil {
		return f.failed
	}
	return nil
}

// fleet finds or makes the fleet of a request.
func (p *Pool) fleet(r Request) (*fleet, error) {
	id := fleetID{r.Job, r.EnvironmentID}
	p.mu.Lock()
	f, closed := p.fleets[id], p.closed
	p.mu.Unlock()
	if closed {
		return nil, ErrStopped
	}
	if f != nil {
		return f, nil
	}
	how, err := p.plan(r.Environment) // may ask a container engine, so without the lock
	if err != nil {
		return nil, fmt.Errorf("environment %q: %w", r.EnvironmentID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrStopped
	}
	if f := p.fleets[id]; f != nil {
		return f, nil
	}
	f = newFleet(p, r, how)
	p.fleets[id] = f
	return f, nil
}

// StopJob stops the workers of a job, politely first, and returns when they
// are gone. Leases of the job become worthless; waiting Acquires fail. Asking
// for a worker of that job afterwards starts new ones.
func (p *Pool) StopJob(job string) {
	p.mu.Lock()
	var stopped []*fleet
	for id, f := range p.fleets {
		if id.job == job {
			delete(p.fleets, id)
			stopped = append(stopped, f)
		}
	}
	p.stop(stopped)
}

// Close stops all workers. When it returns no process that was started here is
// left, and nothing can be acquired any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	var stopped []*fleet
	for _, f := range p.fleets {
		stopped = append(stopped, f)
	}
	clear(p.fleets)
	p.stop(stopped)
	p.children.Close()
}

// stop ends fleets. The caller holds p.mu, which stop gives back.
func (p *Pool) stop(fleets []*fleet) {
	for _, f := range fleets {
		f.halt(ErrStopped)
	}
	p.mu.Unlock()
	for _, f := range fleets {
		f.work.Wait()
		f.removeDir()
	}
}

// CleanUp removes the folders that an earlier process left in Options.Dir. Call
// it before the first worker is started, and only where no other pool uses the
// same Dir.
func (p *Pool) CleanUp() error {
	left, err := filepath.Glob(filepath.Join(p.options.Dir, dirPattern))
	if err != nil {
		return err
	}
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
