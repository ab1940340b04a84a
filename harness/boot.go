package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"trestle/harness/child"
	"trestle/harness/contract"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// farewell is what a worker has to end by itself after its control stream, so
// that its last log lines are not lost.
const farewell = 300 * time.Millisecond

// A finalError says that another try is of no use.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// booted is a worker that has connected.
type booted struct {
	worker   Worker
	instance instance
}

// boot starts a worker and waits until it has connected.
func (f *fleet) boot(name string) (booted, error) {
	worker, err := f.pool.endpoints.Admit(Admission{
		Name:          name,
		Job:           f.request.Job,
		EnvironmentID: f.request.EnvironmentID,
		Lanes:         f.shape.lanes,
		Status:        f.wantsStatus(),
		Options:       f.request.Options,
		Dependencies:  f.plan.env.GetDependencies(),
		Metadata:      map[string]string{"job_id": f.request.Job, "job_name": f.request.JobName},
	})
	if err != nil {
		return booted{}, fmt.Errorf("admit a worker: %w", err)
	}
	id := worker.ID()
	ctx, cancel := context.WithTimeout(f.ctx, f.pool.options.StartTimeout)
	defer cancel()
	inst, err := f.plan.launch.launch(ctx, f, name, f.told(id))
	if err != nil {
		worker.Close()
		return booted{}, fmt.Errorf("%s could not be started: %w", f.plan.describe(), err)
	}
	b := booted{worker: worker, instance: inst}
	if err := f.awaitReady(ctx, cancel, b); err != nil {
		return booted{}, err
	}
	f.pool.options.Log.Info("worker connected", "job", f.request.Job, "environment", f.request.EnvironmentID, "worker", name)
	return b, nil
}

// awaitReady waits until the worker has connected. A worker that doesn't is
// gone when awaitReady returns.
func (f *fleet) awaitReady(ctx context.Context, cancel context.CancelFunc, b booted) error {
	ready := make(chan error, 1)
	go func() { ready <- b.worker.Ready(ctx) }()
	var err error
	var died bool
	select {
	case err = <-ready:
	case <-b.instance.exited():
		died = true
		cancel()
		err = <-ready
	}
	if err == nil && !died {
		return nil
	}
	late := errors.Is(ctx.Err(), context.DeadlineExceeded)
	f.stopWorker(b)
	switch {
	case died:
		return fmt.Errorf("%s ended before it had connected: %s", f.plan.describe(), b.instance.obituary())
	case late:
		err = fmt.Errorf("did not connect to the control endpoint %s within %s",
			f.pool.endpoints.Addresses().Control, f.pool.options.StartTimeout)
	}
	if said := b.instance.obituary(); said != "" {
		return fmt.Errorf("%s: %w; %s", f.plan.describe(), err, said)
	}
	return fmt.Errorf("%s: %w", f.plan.describe(), err)
}

// stopWorker ends a worker and returns when nothing is left of it.
func (f *fleet) stopWorker(b booted) {
	b.worker.Close()
	b.instance.stop(f.ctx.Err() != nil)
}

// told is what a worker of the fleet is told at its start. Its directory is
// added by who makes one.
func (f *fleet) told(id string) contract.Worker {
	to := f.pool.endpoints.Addresses()
	if !f.wantsStatus() {
		to.Status = ""
	}
	return contract.Worker{
		ID:           id,
		Control:      to.Control,
		Logging:      to.Logging,
		Artifact:     to.Artifact,
		Provision:    to.Provision,
		Status:       to.Status,
		Capabilities: to.Capabilities,
		JobID:        f.request.Job,
		JobName:      f.request.JobName,
		Options:      f.request.Options,
	}
}

// wantsStatus reports whether the job's workers are to keep a status stream. It
// costs Python's some percent of their time, by threads that take turns with the
// bundle's.
func (f *fleet) wantsStatus() bool {
	return hasExperiment(f.request.Options, "enable_worker_status")
}

// output returns the sink for a worker's own output, or nil.
func (f *fleet) output(name string) func([]byte) {
	if f.pool.options.Output == nil {
		return nil
	}
	return func(line []byte) { f.pool.options.Output(f.request.Job, name, line) }
}

// A process launcher starts workers as processes of ours.
type process struct {
	name   string
	path   string                      // of a PROCESS environment's command
	env    map[string]string           // of a PROCESS environment
	binary *pipepb.ArtifactInformation // in place of path: the staged Go worker
	own    bool                        // path is this program, which has the worker as a command
}

func (p *process) String() string { return p.name }

func (p *process) launch(ctx context.Context, f *fleet, name string, w contract.Worker) (instance, error) {
	dir, err := f.workerDir(ctx, w.ID)
	if err != nil {
		return nil, err
	}
	w.Dir = dir.path
	told, err := w.Prepare()
	if err != nil {
		dir.remove()
		return nil, err
	}
	c := child.Command{Path: p.path, Args: w.BootArgs(), Dir: dir.path, Mark: w.ID, Output: f.output(name)}
	if p.binary != nil {
		c.Path, c.Args = f.binaryPath(), w.GoWorkerArgs()
	}
	if p.own {
		c.Name, c.Args = os.Args[0], append([]string{"harness"}, w.GoWorkerArgs()...)
	}
	c.Env = append(contract.Inherited(environ()), told...)
	for _, name := range slices.Sorted(maps.Keys(p.env)) {
		c.Env = append(c.Env, name+"="+p.env[name])
	}
	running, err := f.pool.children.Start(c)
	if err != nil {
		dir.remove()
		return nil, err
	}
	return &local{Process: running, grace: f.pool.options.StopGrace, idles: p.binary != nil, cleanUp: dir.remove}, nil
}

// local is a worker that is a process of ours.
type local struct {
	*child.Process
	grace   time.Duration
	idles   bool // doesn't end by itself when its control stream does
	stopped bool // by us: its status says nothing
	cleanUp func()
}

func (l *local) exited() <-chan struct{} { return l.Exited() }

func (l *local) stop(haste bool) {
	own := farewell
	if haste && l.idles {
		own = 0
	}
	wait := time.NewTimer(own)
	defer wait.Stop()
	select {
	case <-l.Exited():
	case <-wait.C:
		l.stopped = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.grace)
	defer cancel()
	l.Stop(ctx)
	l.cleanUp()
}

func (l *local) obituary() string {
	status := l.Status()
	if l.stopped {
		status = "it was stopped"
	}
	if tail := l.Tail(); tail != "" {
		return status + "; its last output:\n" + tail
	}
	return status + "; it wrote no output"
}
