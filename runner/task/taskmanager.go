package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"trestle/fnapi"
	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/metrics"
	"trestle/runner/side"
	"trestle/runner/state"
	"trestle/shuffle"
	"trestle/shuffle/network"
)

const (
	// pipelinedLinger is how long what came over a pipelined edge waits for more
	// before it becomes a bundle.
	pipelinedLinger = 5 * time.Millisecond
	progressEvery   = time.Second
	reportsAhead    = 256
	// metricsLimit bounds the metrics of one task in the log of decisions.
	metricsLimit = 64 << 10
)

// Workers lends SDK harness workers.
type Workers interface {
	// Acquire waits for a worker of the job's environment and a lane on it: had,
	// if that isn't nil and no other one is less busy.
	Acquire(ctx context.Context, job, environment string, had *fnapi.Worker) (bundle.Lease, error)
	// Failed tells why there will be no worker of the environment any more, such
	// as when a client that was one is gone; nil if there may be.
	Failed(job, environment string) error
	// StopJob ends the job's workers.
	StopJob(job string)
}

// Plans finds stored plans.
type Plans interface {
	Plan(ctx context.Context, job, hash string) (*fusion.Plan, error)
	// BundleElements is the most elements that a bundle of the job may have; 0
	// where the job doesn't say.
	BundleElements(job string) int
	// BundleTime is how long a bundle of restrictions of the job may run before
	// it is asked to give back what it has not done; 0 where the job doesn't say.
	BundleTime(job string) time.Duration
}

// Config is what a TaskManager works with. Zero limits mean their defaults.
type Config struct {
	Name     string
	Slots    int
	Shuffle  *shuffle.Service
	Budget   *membudget.Budget
	Workers  Workers
	Plans    Plans
	SpillDir string // for runs of groupers, indexes of side inputs and the like

	// Network reads the partitions that other TaskManagers keep, and Peer is the
	// connection to one of them; nil where there is no other.
	Network *network.Client
	Peer    func(ctx context.Context, taskManager string) (*cluster.Conn, error)

	// Hide takes a job's secrets out of what is told of its failures; may be nil.
	Hide func(job, text string) string

	BundleBytes    int64 // of one bundle's input; default 16 MiB, less where Budget is small
	BundleElements int   // default 500,000
	LargeBytes     int64 // from where on a group's values are left to the state API; default 4 MiB
	UserTries      int   // of a bundle whose user code fails; default 2
	WorkerTries    int   // of a bundle whose worker dies; default 4
	// QueueRetry is how long a task goes on to ask a queue of restrictions that
	// another TaskManager keeps and that doesn't answer; default 10 s.
	QueueRetry time.Duration
}

func (c *Config) defaults() {
	if c.BundleBytes == 0 {
		c.BundleBytes = min(16<<20, max(chunkSize, c.Budget.Limit()/int64(16*c.Slots)))
	}
	if c.BundleElements == 0 {
		c.BundleElements = 500_000
	}
	if c.LargeBytes == 0 {
		c.LargeBytes = 4 << 20
	}
	if c.UserTries == 0 {
		c.UserTries = 2
	}
	if c.WorkerTries == 0 {
		c.WorkerTries = 4
	}
	if c.QueueRetry == 0 {
		c.QueueRetry = 10 * time.Second
	}
}

// A TaskManager runs tasks in its slots. It does what it is told and decides
// nothing: see package runner's TaskManager for the contract.
type TaskManager struct {
	cfg     Config
	views   *side.Cache
	store   *state.Store // of what streaming tasks know of their keys
	reports chan Report
	ctx     context.Context // of all tasks; ends with Run
	stop    context.CancelCauseFunc
	totals  totals

	mu       sync.Mutex
	closed   bool
	draining bool
	tasks    map[ID]*running
	ended    map[string]map[ID]struct{} // by job, until it is released
	idle     chan struct{}              // closed and renewed when the last task has ended
	programs map[programKey]*compiled
	queues   map[queueKey]*queue
	streams  map[string]*streamJob // by job, until it is released
	drains   map[string]bool       // jobs that are to come to their end; until they are released
	offers   map[queueKey]Spec     // of queues that others may ask for; until the job is released
	offered  chan struct{}         // closed and renewed with each new offer
	wg       sync.WaitGroup        // tasks; Add under mu and never once closed
}

type programKey struct {
	job, plan string
	stage     jobgraph.StageID
}

// compiled is a program made once, by whoever needs it first.
type compiled struct {
	done chan struct{} // closed when the rest is there
	prog *bundle.Program
	err  error
}

type queueKey struct {
	job        string
	stage      jobgraph.StageID
	generation uint32
}

// running is a task between Start and its last report.
type running struct {
	cancel context.CancelCauseFunc
	live   *counts
	slot   int
	last   bool // its last report is on its way
}

var (
	errCanceled = errors.New("task cancelled")
	errStopping = errors.New("task manager is stopping")
	errDraining = errors.New("the TaskManager is about to leave and takes no tasks")
)

// New returns a TaskManager that has taken up what an earlier process left in
// cfg.Shuffle. Its goroutines belong to Run.
func New(cfg Config) *TaskManager {
	cfg.defaults()
	cfg.Shuffle.Recover() // Inventory tells what there is
	ctx, stop := context.WithCancelCause(context.Background())
	return &TaskManager{
		cfg:      cfg,
		views:    side.NewCache(cfg.Budget.Limit() / 8),
		store:    state.NewStore(cfg.SpillDir, cfg.Budget),
		reports:  make(chan Report, reportsAhead),
		ctx:      ctx,
		stop:     stop,
		tasks:    map[ID]*running{},
		ended:    map[string]map[ID]struct{}{},
		idle:     make(chan struct{}),
		programs: map[programKey]*compiled{},
		queues:   map[queueKey]*queue{},
		streams:  map[string]*streamJob{},
		drains:   map[string]bool{},
		offers:   map[queueKey]Spec{},
		offered:  make(chan struct{}),
	}
}

// Run reports progress until ctx ends; then it stops every task and returns
// when none is left.
func (m *TaskManager) Run(ctx context.Context) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.reportProgress()
			m.tendQueues()
		case <-ctx.Done():
			m.mu.Lock()
			m.closed = true
			m.mu.Unlock()
			m.stop(errStopping)
			m.drainUntilDone()
			return m.store.Close()
		}
	}
}

// drainUntilDone waits for the tasks while nobody may be reading reports.
func (m *TaskManager) drainUntilDone() {
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	for {
		select {
		case <-done:
			close(m.reports)
			return
		case <-m.reports:
		}
	}
}

// Name is the TaskManager's name.
func (m *TaskManager) Name() string { return m.cfg.Name }

// Slots is the number of columns that run at once.
func (m *TaskManager) Slots() int { return m.cfg.Slots }

// Reports gives what happens to tasks.
func (m *TaskManager) Reports() <-chan Report { return m.reports }

// Start runs the tasks, which share a slot.
func (m *TaskManager) Start(column []Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	for _, spec := range column {
		if _, over := m.ended[spec.Job][spec.ID]; over || m.tasks[spec.ID] != nil {
			continue // asked again
		}
		ctx, cancel := context.WithCancelCause(m.ctx)
		if m.draining {
			cancel(errDraining)
		} else {
			m.offer(spec)
		}
		t := &running{cancel: cancel, slot: spec.Slot, live: &counts{committed: new(metrics.Set), totals: &m.totals}}
		m.tasks[spec.ID] = t
		m.wg.Go(func() {
			defer cancel(nil)
			m.runTask(ctx, spec, t)
		})
	}
}

// runTask runs one task and reports it.
func (m *TaskManager) runTask(ctx context.Context, spec Spec, t *running) {
	id := spec.ID
	m.reports <- Report{Started: &id}
	r := &run{m: m, spec: spec, live: t.live}
	done, err := m.do(ctx, r)
	m.mu.Lock()
	t.last = true // no progress behind the end
	m.mu.Unlock()
	defer m.over(id) // and not before the report is on its way
	if err != nil {
		failed := r.failed(ctx, err)
		if m.cfg.Hide != nil {
			failed.Message = m.cfg.Hide(spec.Job, failed.Message)
		}
		if failed.Cause != CauseCanceled {
			m.totals.failed.Add(1)
		}
		m.reports <- Report{Failed: failed}
		return
	}
	m.totals.finished.Add(1)
	m.reports <- Report{Finished: done}
}

func (m *TaskManager) do(ctx context.Context, r *run) (done *Finished, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r.prog, err = m.program(ctx, r.spec); err != nil {
		return nil, err
	}
	r.live.follow(r.prog)
	return r.do(ctx)
}

// over notes that a task has told its end.
func (m *TaskManager) over(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tasks, id)
	if m.ended[id.Job] == nil {
		m.ended[id.Job] = map[ID]struct{}{}
	}
	m.ended[id.Job][id] = struct{}{}
	if len(m.tasks) == 0 {
		close(m.idle)
		m.idle = make(chan struct{})
	}
}

// program compiles a stage once for all its tasks. What fails is tried again by
// the next task that needs it: a plan that one could not read another may, and
// the end of a task isn't the fault of the others.
func (m *TaskManager) program(ctx context.Context, spec Spec) (*bundle.Program, error) {
	k := programKey{spec.Job, spec.Plan, spec.Stage}
	for {
		m.mu.Lock()
		c := m.programs[k]
		mine := c == nil
		if mine {
			c = &compiled{done: make(chan struct{})}
			m.programs[k] = c
		}
		m.mu.Unlock()
		if mine {
			m.compile(ctx, k, c)
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if c.err == nil || mine {
			return c.prog, c.err
		}
	}
}

// compile fills c, or forgets it.
func (m *TaskManager) compile(ctx context.Context, k programKey, c *compiled) {
	defer close(c.done)
	plan, err := m.cfg.Plans.Plan(ctx, k.job, k.plan)
	if err != nil {
		c.err = fmt.Errorf("read plan of job %s: %w", k.job, err)
	} else {
		c.prog, c.err = bundle.Compile(plan, k.stage)
	}
	if c.err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.programs[k] == c {
			delete(m.programs, k)
		}
	}
}

// Cancel stops tasks.
func (m *TaskManager) Cancel(ids []ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if t := m.tasks[id]; t != nil {
			t.cancel(errCanceled)
		}
	}
}

// DrainJob has the sources of a streaming job stop.
func (m *TaskManager) DrainJob(job string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drains[job] = true
	if j := m.streams[job]; j != nil {
		j.drain()
	}
}

// Release forgets partitions.
func (m *TaskManager) Release(job string, dataset jobgraph.DatasetID, parts []Partition) {
	ids := make([]shuffle.PartitionID, len(parts))
	for i, p := range parts {
		ids[i] = shuffle.PartitionID{Job: job, Dataset: string(dataset), Index: p.Index, Attempt: p.Attempt}
	}
	m.cfg.Shuffle.Release(ids...)
}

// ReleaseJob forgets all there is of a job. Stopping its workers takes a
// while; nobody waits for it but Run's end.
func (m *TaskManager) ReleaseJob(job string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return // whoever owns workers and shuffle closes them whole
	}
	m.wg.Go(func() { m.releaseJob(job) })
}

func (m *TaskManager) releaseJob(job string) {
	m.mu.Lock()
	delete(m.ended, job)
	delete(m.streams, job)
	delete(m.drains, job)
	var queues []*queue
	for k, q := range m.queues {
		if k.job == job {
			queues = append(queues, q)
			delete(m.queues, k)
		}
	}
	maps.DeleteFunc(m.offers, func(k queueKey, _ Spec) bool { return k.job == job })
	for k := range m.programs {
		if k.job == job {
			delete(m.programs, k)
		}
	}
	m.mu.Unlock()
	for _, q := range queues {
		q.close()
	}
	m.views.DropJob(job)
	m.cfg.Workers.StopJob(job)
	m.cfg.Shuffle.ReleaseJob(job)
}

// reportProgress tells what running tasks have done, unless nobody listens.
func (m *TaskManager) reportProgress() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, t := range m.tasks {
		if t.last {
			continue
		}
		select {
		case m.reports <- Report{Progress: t.live.progress(id)}:
		default: // the next tick tells as much
		}
	}
}
