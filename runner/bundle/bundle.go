// Package bundle runs one bundle after another on SDK harness workers.
//
// A bundle is the unit of work that a worker commits or loses: its input is
// kept and its output, state writes and residuals are staged until the worker
// has answered. Then all of it takes effect at once, or, after an error,
// nothing does and the bundle is tried again, a bounded number of times.
//
// A dynamic split narrows what a bundle has to do. The narrower input is noted
// before the residual is handed out, and a later try runs what was noted, so
// that an element is neither read twice nor lost.
//
// Where input comes from, what becomes of residuals and when the task ends are
// package task's.
package bundle

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"trestle/element"
	"trestle/fnapi"
	"trestle/runner/jobgraph"
	"trestle/runner/metrics"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// rotation gives every bundle another place to start spreading at.
var rotation atomic.Uint64

// A Lease is the right to run bundles, one at a time, on a lane of a worker.
type Lease interface {
	Worker() *fnapi.Worker
	Lane() int
	// Obituary tells what is known of the death of the worker, "" for nothing.
	// It waits for the death, or ctx.
	Obituary(ctx context.Context) string
	Release()
}

// An Input is what one bundle is fed. Its bytes stay untouched until the
// bundle has ended.
type Input struct {
	Chunks   [][]byte // whole encoded windowed values
	Items    [][]byte // instead of Chunks for restrictions: one element each
	Timers   []TimerChunk
	Elements int
	Bytes    int64

	cut     int      // one more than the first of Items that splits gave back; 0: none
	whole   int      // once cut: how many of Items pending begins with, unsplit
	pending [][]byte // once cut: what a later try has to do instead of Items
}

// A TimerChunk holds encoded timers of one family.
type TimerChunk struct {
	Transform, Family string
	Bytes             []byte
}

// A Residual is work that a bundle gives back: an encoded windowed element for
// the root of its stage, not to be tried before Delay has passed.
type Residual struct {
	Element []byte
	Delay   time.Duration
	// Watermark is what the rest will give nothing before; that of an element
	// that the bundle never touched is not told.
	Watermark element.Timestamp
	Untouched bool
}

// A Result is what a committed bundle did.
type Result struct {
	Residuals             []Residual // of a self-checkpoint
	OutElements, OutBytes int64
	InElements, InBytes   int64
	Timers                []TimerChunk // set by the bundle: those of each family, in order of arrival
	Kept                  []byte       // elements of sinks that say so
	// Took is how long the worker took, waiting for one not counted.
	Took time.Duration
}

// State answers the state requests of one bundle and stages its writes.
type State interface {
	fnapi.StateHandler
	Commit() error
	Abort()
}

// A Runner runs the bundles of one task. Its methods are for one goroutine; its
// functions are called from several where bundles run apart.
type Runner struct {
	Program *Program
	Dests   map[jobgraph.DatasetID]*Dest
	// Acquire waits for a worker of the stage's environment.
	Acquire func(ctx context.Context) (Lease, error)
	// NewState begins the state of a bundle.
	NewState func() State
	// CacheTokens are those under which a worker may cache what it reads; asked
	// for at each try, of bundles that run at once from several goroutines.
	CacheTokens func(w *fnapi.Worker) []*fnpb.ProcessBundleRequest_CacheToken
	// Committed takes the metrics of a bundle that has committed.
	Committed func(set *metrics.Set)
	// Attempted is given the metrics of a running bundle now and then, and nil
	// when it has ended; may be nil. Bundles that run at once have different
	// parts: 0, 1, 2, …
	Attempted func(part int, infos *metrics.Set)
	// Hungry gives a token when another task begins to wait for work, and
	// StillHungry tells whether one waits; only restrictions are split for it.
	// GiveBack takes what a split keeps of the bundle's items and what it leaves
	// over.
	Hungry      <-chan struct{}
	StillHungry func() bool
	GiveBack    func(kept [][]byte, rest []Residual)
	// Checkpoint is how long a bundle of restrictions may run before it is asked
	// to give back what it has not done; 0: as long as it takes.
	Checkpoint time.Duration
	// Loose gives the worker back before output is committed: that may wait for
	// readers who need a worker, too.
	Loose bool
	// UserTries and WorkerTries bound how often a bundle is tried for errors of
	// the user's code and for lost workers; at least 1.
	UserTries, WorkerTries int

	lease Lease
	index int // among the bundles that run at once
}

// Close gives the worker back.
func (r *Runner) Close() {
	if r.lease != nil {
		r.lease.Release()
		r.lease = nil
	}
}

// Run runs one bundle to its commit.
func (r *Runner) Run(ctx context.Context, in *Input) (*Result, error) {
	if r.Loose {
		defer r.Close() // try does so earlier when all went well
	}
	userTries, workerTries := 0, 0
	for {
		res, err := r.try(ctx, in)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var lost *fnapi.WorkerLostError
		var broke *fnapi.ProtocolError
		var user *fnapi.UserError
		switch {
		case errors.As(err, &lost):
			err = r.bury(ctx, err)
			if workerTries++; workerTries >= r.WorkerTries {
				return nil, err
			}
		case errors.As(err, &broke):
			// It may live, and nobody waits for its death; but another one may do better.
			r.Close()
			if workerTries++; workerTries >= r.WorkerTries {
				return nil, err
			}
		case errors.As(err, &user):
			if userTries++; userTries >= r.UserTries {
				return nil, err
			}
		default:
			return nil, err
		}
		in.settle()
	}
}

// bury gives back a lost worker, so that the next try asks for another one, and
// adds to the error what the worker said at its end.
func (r *Runner) bury(ctx context.Context, err error) error {
	if r.lease == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, obituaryWait)
	defer cancel()
	if o := r.lease.Obituary(ctx); o != "" {
		err = fmt.Errorf("%w\n%s", err, o)
	}
	r.Close()
	return err
}

// try runs the bundle once.
func (r *Runner) try(ctx context.Context, in *Input) (*Result, error) {
	if !r.Program.HasWorker() {
		return r.pass(ctx, in)
	}
	if err := r.lend(ctx); err != nil {
		return nil, err
	}
	out, err := newOutputs(r.Program, r.Dests)
	if err != nil {
		return nil, err
	}
	st := r.NewState()
	own := &guard{state: st}
	began := time.Now()
	resp, b, err := r.exchange(ctx, in, out, own)
	if err = own.or(err); err == nil {
		err = out.end()
	}
	set := new(metrics.Set)
	if err == nil {
		// Before the commit: the worker may be asked, and lost.
		err = r.addMetrics(ctx, set, resp.GetMonitoringInfos(), resp.GetMonitoringData())
	}
	if err == nil {
		err = r.checkRead(in, b, resp)
	}
	if err == nil {
		err = r.checkRoots(b, nil, resp.GetResidualRoots())
	}
	if err != nil {
		out.abort()
		st.Abort()
		return nil, r.blame(b, err)
	}
	// From here on an error fails the task: the bundle can't run again.
	if r.Loose {
		r.Close()
	}
	res := &Result{InElements: int64(in.Elements), InBytes: in.Bytes, Timers: out.timers, Took: time.Since(began)}
	if res.OutElements, res.OutBytes, err = out.commit(ctx); err != nil {
		st.Abort()
		return nil, err
	}
	if err := st.Commit(); err != nil {
		return nil, err
	}
	for _, s := range out.sinks {
		res.Kept = append(res.Kept, s.kept...)
	}
	for _, d := range resp.GetResidualRoots() {
		res.Residuals = append(res.Residuals, residual(d))
	}
	r.Committed(set)
	if resp.GetRequiresFinalization() {
		// Best effort by Beam's rules: an error is the worker's loss alone.
		_ = b.Finalize(ctx)
	}
	return res, nil
}

// blame makes output that can't be cut its worker's fault.
func (r *Runner) blame(b *fnapi.Bundle, err error) error {
	var g *garbageError
	if !errors.As(err, &g) {
		return err
	}
	return &fnapi.ProtocolError{Worker: r.lease.Worker().Name(), Instruction: b.ID(), What: err.Error()}
}

// pass runs a bundle of a stage without transforms: what comes in goes out.
func (r *Runner) pass(ctx context.Context, in *Input) (*Result, error) {
	out, err := newOutputs(r.Program, r.Dests)
	if err != nil {
		return nil, err
	}
	for _, s := range out.sinks {
		for _, c := range in.Chunks {
			if err := s.write(c); err != nil {
				out.abort()
				return nil, err
			}
		}
	}
	if err := out.end(); err != nil {
		out.abort()
		return nil, err
	}
	res := &Result{InElements: int64(in.Elements), InBytes: in.Bytes}
	res.OutElements, res.OutBytes, err = out.commit(ctx)
	return res, err
}

// lend makes sure of a worker that knows the stage's descriptor.
func (r *Runner) lend(ctx context.Context) error {
	if r.lease != nil {
		select {
		case <-r.lease.Worker().Lost():
			r.Close()
		default:
			return nil
		}
	}
	l, err := r.Acquire(ctx)
	if err != nil {
		return err
	}
	r.lease = l
	w := l.Worker()
	w.SetDescriptor(r.Program.Descriptor(r.descriptorID(), w.DataURL(l.Lane()), w.StateURL()))
	return nil
}

func (r *Runner) descriptorID() string {
	return string(r.Program.Stage.ID) + "/" + strconv.Itoa(r.lease.Lane())
}

// exchange gives the worker its input and waits for the end of the bundle.
func (r *Runner) exchange(ctx context.Context, in *Input, out *outputs, st fnapi.StateHandler) (*fnpb.ProcessBundleResponse, *fnapi.Bundle, error) {
	start := fnapi.BundleStart{
		Descriptor:  r.descriptorID(),
		Sinks:       r.Program.sinkIDs,
		Timers:      r.Program.Timers,
		Output:      out,
		State:       st,
		CacheTokens: r.CacheTokens(r.lease.Worker()),
	}
	embedded := r.Program.Embed && in.Bytes <= embedLimit && len(in.Timers) == 0
	if embedded {
		start.Embedded = r.embed(in)
	}
	b, err := r.lease.Worker().Start(ctx, start)
	if err != nil {
		return nil, nil, err
	}
	defer b.Abort(errAbandoned)

	wait := make(chan answer, 1)
	go func() { // ends with the bundle, at the latest by Abort
		resp, err := b.Wait(ctx)
		wait <- answer{resp, err}
	}()
	fed := make(chan error, 1)
	if embedded {
		fed <- nil
	} else {
		go func() { fed <- r.feed(ctx, b, in) }()
	}
	a := r.attend(ctx, b, in, wait)
	if a.err != nil {
		b.Abort(a.err)
	}
	if err := <-fed; err != nil && a.err == nil {
		a.err = err
	}
	return a.resp, b, a.err
}

// An answer is how a bundle ended.
type answer struct {
	resp *fnpb.ProcessBundleResponse
	err  error
}

var errAbandoned = errors.New("bundle abandoned")

// checkpoints ticks when the bundle is to be asked to leave the rest, where it
// may be.
func (r *Runner) checkpoints(in *Input) (ticks <-chan time.Time, stop func()) {
	if r.Checkpoint == 0 || in.Items == nil {
		return nil, func() {}
	}
	every := time.NewTicker(r.Checkpoint)
	return every.C, every.Stop
}

// attend waits for the end of the bundle; meanwhile it splits the bundle when
// others are idle and reports its progress.
func (r *Runner) attend(ctx context.Context, b *fnapi.Bundle, in *Input, wait <-chan answer) answer {
	hungry := r.Hungry
	if in.Items == nil {
		hungry = nil
	}
	progress := time.NewTicker(progressEvery)
	defer progress.Stop()
	var again <-chan time.Time // after a split that gave nothing: not at once
	pause := splitPause
	began := time.Now()
	pace := pacer{asked: began, pause: progressEvery}
	var broken error
	split := func() {
		again = nil
		asked := time.Now()
		gave, err := r.split(ctx, b, in, 0.5)
		if time.Since(asked) > splitSlow {
			pause = max(pause, splitPauseMost)
		}
		switch {
		case err != nil:
			broken, hungry = err, nil
			b.Abort(err)
		case !gave:
			again = time.After(pause)
			pause = min(2*pause, splitPauseMost)
		default:
			pause = splitPause
		}
	}
	long, stop := r.checkpoints(in)
	defer stop()
	for {
		select {
		case <-long:
			if _, err := r.split(ctx, b, in, 0); err != nil {
				broken, long = err, nil
				b.Abort(err)
			}
		case a := <-wait:
			if r.Attempted != nil {
				r.Attempted(r.index, nil)
			}
			if a.err == nil {
				a.err = broken // it may have come too late to abort
			}
			return a
		case <-hungry:
			// The bundle may be as good as done, above all where halves of one
			// element end together: a split would come too late then, and Go's SDK
			// takes half a second to say so. At its beginning there is less doubt.
			again = time.After(splitWait(time.Since(began)))
		case <-again:
			again = nil
			if r.StillHungry() {
				split()
			}
		case now := <-progress.C:
			if pace.due(now) {
				r.progress(ctx, b)
			}
			// Whoever got the token may have nothing to give; others may.
			if hungry != nil && again == nil && r.StillHungry() {
				split()
			}
		}
	}
}
