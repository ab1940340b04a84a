package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/metrics"
	"trestle/runner/side"
	"trestle/shuffle"
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
	// Acquire waits for a worker of the job's environment and a lane on it.
	Acquire(ctx context.Context, job, environment string) (bundle.Lease, error)
	// StopJob ends the job's workers.
	StopJob(job string)
}

// Plans finds stored plans.
type Plans interface {
	Plan(ctx context.Context, job, hash string) (*fusion.Plan, error)
	// BundleElements is the most elements that a bundle of the job may have; 0
	// where the job doesn't say.
	BundleElements(job string) int
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

	BundleBytes    int64 // of one bundle's input; default 16 MiB, less where Budget is small
	BundleElements int   // default 500,000
	LargeBytes     int64 // from where on a group's values are left to the state API; default 4 MiB
	UserTries      int   // of a bundle whose user code fails; default 2
	WorkerTries    int   // of a bundle whose worker dies; default 4
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
}

// A TaskManager runs tasks in its slots. It does what it is told and decides
// nothing: see package runner's TaskManager for the contract.
type TaskManager struct {
	cfg     Config
	views   *side.Cache
	reports chan Report
	ctx     context.Context // of all tasks; ends with Run
	stop    context.CancelCauseFunc
	totals  totals

	mu       sync.Mutex
	closed   bool
	tasks    map[ID]*running
	programs map[programKey]*compiled
	queues   map[queueKey]*queue
	wg       sync.WaitGroup // tasks; Add under mu and never once closed
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
}

var (
	errCanceled = errors.New("task cancelled")
	errStopping = errors.New("task manager is stopping")
)

// New returns a TaskManager. Its goroutines belong to Run.
func New(cfg Config) *TaskManager {
	cfg.defaults()
	ctx, stop := context.WithCancelCause(context.Background())
	return &TaskManager{
		cfg:      cfg,
		views:    side.NewCache(cfg.Budget.Limit() / 8),
		reports:  make(chan Report, reportsAhead),
		ctx:      ctx,
		stop:     stop,
		tasks:    map[ID]*running{},
		programs: map[programKey]*compiled{},
		queues:   map[queueKey]*queue{},
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
		case <-ctx.Done():
			m.mu.Lock()
			m.closed = true
			m.mu.Unlock()
			m.stop(errStopping)
			m.drainUntilDone()
			return nil
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

// Inventory is empty: an embedded TaskManager begins and ends with its
// JobManager, and keeps no partition from an earlier life.
func (m *TaskManager) Inventory(context.Context) (Inventory, error) { return Inventory{}, nil }

// Start runs the tasks, which share a slot.
func (m *TaskManager) Start(column []Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	for _, spec := range column {
		if m.tasks[spec.ID] != nil {
			continue // asked again
		}
		ctx, cancel := context.WithCancelCause(m.ctx)
		t := &running{cancel: cancel, live: &counts{committed: new(metrics.Set), totals: &m.totals}}
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
	var done *Finished
	var err error
	if r.prog, err = m.program(ctx, spec); err == nil {
		t.live.follow(r.prog)
		done, err = r.do(ctx)
	}
	m.mu.Lock()
	delete(m.tasks, spec.ID)
	m.mu.Unlock()
	if err != nil {
		failed := r.failed(ctx, err)
		if failed.Cause != CauseCanceled {
			m.totals.failed.Add(1)
		}
		m.reports <- Report{Failed: failed}
		return
	}
	m.totals.finished.Add(1)
	m.reports <- Report{Finished: done}
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
	var queues []*queue
	for k, q := range m.queues {
		if k.job == job {
			queues = append(queues, q)
			delete(m.queues, k)
		}
	}
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
	all := make([]*Progress, 0, len(m.tasks))
	for id, t := range m.tasks {
		all = append(all, t.live.progress(id))
	}
	m.mu.Unlock()
	for _, p := range all {
		select {
		case m.reports <- Report{Progress: p}:
		default: // the next tick tells as much
		}
	}
}
