package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"trestle/fnapi"
	"trestle/runner/bundle"
	"trestle/runner/group"
	"trestle/runner/jobgraph"
	"trestle/runner/state"
	"trestle/shuffle"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A run is one attempt of one task under way.
type run struct {
	m     *TaskManager
	spec  Spec
	prog  *bundle.Program
	dests map[jobgraph.DatasetID]*bundle.Dest
	views *views
	user  *state.Batch // of a keyed stage, else nil
	large atomic.Pointer[group.Large]
	live  *counts

	sideTokens []*fnpb.ProcessBundleRequest_CacheToken // of a batch
	userTokens userTokens
}

// do runs the task to its end and returns its report.
func (r *run) do(ctx context.Context) (*Finished, error) {
	if err := r.create(ctx); err != nil {
		return nil, err
	}
	if r.prog.Stream != nil {
		defer r.abort()
		return r.stream(ctx)
	}
	defer r.abort() // what was closed is not hurt by it
	if err := r.openViews(ctx); err != nil {
		return nil, err
	}
	defer r.views.close()
	r.openState()
	defer r.closeState()

	br := r.bundles()
	defer br.Close()
	var err error
	switch r.prog.Node.Root {
	case jobgraph.RootRestrictions:
		err = r.restrictions(ctx, br)
	default:
		err = r.batches(ctx, br)
	}
	if err != nil {
		return nil, err
	}
	return r.finish(ctx)
}

// String names a task for people: job/stage[index]#attempt.
func (id ID) String() string {
	return fmt.Sprintf("%s/%s[%d]#%d", id.Job, id.Stage, id.Index, id.Attempt)
}

// create starts the task's partitions.
func (r *run) create(ctx context.Context) error {
	r.dests = make(map[jobgraph.DatasetID]*bundle.Dest, len(r.spec.Outputs))
	for _, o := range r.spec.Outputs {
		ds := r.prog.Dataset(o.Dataset)
		if ds == nil {
			return fmt.Errorf("task %s is to write dataset %s, which its stage doesn't", r.spec.ID, o.Dataset)
		}
		w, err := r.m.cfg.Shuffle.Create(ctx, r.partition(o.Dataset), o.Subpartitions, string(ds.Exchange))
		if err != nil {
			r.abort()
			return err
		}
		r.dests[o.Dataset] = &bundle.Dest{Partitioning: ds.Partitioning, Subpartitions: o.Subpartitions, KeyGroups: r.spec.KeyGroups, Writer: w}
	}
	return nil
}

func (r *run) partition(id jobgraph.DatasetID) shuffle.PartitionID {
	return shuffle.PartitionID{Job: r.spec.Job, Dataset: string(id), Index: r.spec.Index, Attempt: r.spec.Attempt}
}

func (r *run) abort() {
	for _, d := range r.dests {
		d.Writer.Abort()
	}
}

// acquire waits for a worker of one of the job's environments.
func (r *run) acquire(ctx context.Context, environment string) (bundle.Lease, error) {
	return r.m.cfg.Workers.Acquire(ctx, r.spec.Job, environment, nil)
}

// bundles makes what runs the task's bundles.
func (r *run) bundles() *bundle.Runner {
	return &bundle.Runner{
		Program: r.prog,
		Dests:   r.dests,
		Acquire: func(ctx context.Context) (bundle.Lease, error) {
			return r.m.cfg.Workers.Acquire(ctx, r.spec.Job, r.prog.Stage.Environment, r.userTokens.held())
		},
		NewState:    r.newState,
		CacheTokens: r.cacheTokens,
		Committed:   r.live.commit,
		Attempted:   r.live.attempted,
		UserTries:   r.m.cfg.UserTries,
		WorkerTries: r.m.cfg.WorkerTries,
	}
}

// batches runs the bundles of every root but restrictions.
func (r *run) batches(ctx context.Context, br *bundle.Runner) error {
	in, err := r.open(ctx, br)
	if err != nil {
		return err
	}
	defer in.close()
	timers := r.newPending()
	defer timers.close()
	goesOn := false // the keys of the last bundle are those of the next
	for {
		b, err := in.next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !goesOn {
			if err := r.nextKeys(); err != nil {
				return err
			}
		}
		goesOn = in.more()
		err = r.batch(ctx, br, b, timers)
		in.release()
		if err == nil && !goesOn {
			err = r.settle(ctx, br, timers)
		}
		if err != nil {
			return err
		}
	}
}

// batch runs one bundle of bounded input, in parts where that is quicker.
func (r *run) batch(ctx context.Context, br *bundle.Runner, in *bundle.Input, timers *pending) error {
	parts, err := r.split(in)
	if err != nil {
		return err
	}
	if len(parts) > 1 { // they are copies
		r.m.cfg.Budget.Take(in.Bytes)
		defer r.m.cfg.Budget.Give(in.Bytes)
	}
	results, err := br.RunApart(ctx, parts)
	if err != nil {
		return err
	}
	for _, res := range results {
		if len(res.Residuals) > 0 {
			return fmt.Errorf("a worker gave back part of a bundle that can't be split")
		}
		r.live.add(res)
		if err := timers.take(res.Timers); err != nil {
			return err
		}
	}
	return timers.expire(in, r.prog.Input)
}

// restrictions works through the stage's queue with the other tasks.
func (r *run) restrictions(ctx context.Context, br *bundle.Runner) (err error) {
	q, err := r.openWork(ctx)
	if err != nil {
		return err
	}
	defer func() { q.leave(err) }()
	br.StillHungry, br.GiveBack = q.stillHungry, q.split
	every := r.m.cfg.Plans.BundleTime(r.spec.Job)
	checkpoint := every
	for {
		p, err := q.pull(ctx)
		if p == nil || err != nil {
			return err
		}
		in := &bundle.Input{Items: p.items, Elements: len(p.items)}
		for _, e := range p.items {
			in.Bytes += int64(len(e))
		}
		br.Hungry, br.Checkpoint = q.hungry(), checkpoint
		if p.pinned {
			br.Hungry, br.Checkpoint = nil, 0
		}
		began := time.Now()
		res, err := br.Run(ctx, in)
		if err != nil {
			return err
		}
		if every > 0 {
			checkpoint = nextCheckpoint(every, checkpoint, time.Since(began), res)
		}
		if err := q.done(ctx, in.Kept(), res.Residuals); err != nil {
			return err
		}
		r.live.add(res)
	}
}

// open gives the input of a stage whose root is not restrictions.
func (r *run) open(ctx context.Context, br *bundle.Runner) (input, error) {
	switch r.prog.Node.Root {
	case jobgraph.RootImpulse:
		return &impulse{value: r.spec.Impulse}, nil
	case jobgraph.RootRead:
		src, err := r.openRead(ctx)
		if err != nil {
			return nil, err
		}
		return newBatches(ctx, src, r.m.cfg.Budget, r.limits()), nil
	case jobgraph.RootGroup, jobgraph.RootKeyed:
		return r.openGroup(ctx, br)
	}
	return nil, fmt.Errorf("stage %s has an unknown root %q", r.spec.Stage, r.prog.Node.Root)
}

func (r *run) limits() limits {
	l := limits{bytes: r.m.cfg.BundleBytes, count: r.m.cfg.BundleElements}
	if n := r.m.cfg.Plans.BundleElements(r.spec.Job); n > 0 {
		l.count = min(l.count, n)
	}
	for _, id := range r.prog.Node.Inputs {
		if r.prog.Node.Root == jobgraph.RootRead && r.prog.Dataset(id).Exchange == jobgraph.Pipelined {
			l.linger = pipelinedLinger
		}
	}
	return l
}

// openRead opens all inputs, those that are pipelined to be read at once.
func (r *run) openRead(ctx context.Context) (*readSource, error) {
	s := &readSource{}
	together := &fanIn{}
	for _, in := range r.spec.Inputs {
		rd, err := r.openInput(ctx, in)
		if err != nil {
			s.close()
			together.Close()
			return nil, err
		}
		ds := r.prog.Dataset(in.Dataset)
		if ds.Exchange == jobgraph.Pipelined {
			together.readers = append(together.readers, rd)
		} else {
			s.readers = append(s.readers, rd)
		}
		s.w = r.prog.Feed[ds.Collection]
	}
	if len(together.readers) > 0 {
		s.pipelined = true
		s.readers = append([]blockReader{together}, s.readers...)
	}
	return s, nil
}

// finish closes the task's partitions: from here on they can be read.
func (r *run) finish(ctx context.Context) (*Finished, error) {
	f := &Finished{ID: r.spec.ID}
	f.InElements, f.InBytes = r.live.inElements.Load(), r.live.inBytes.Load()
	f.OutElements, f.OutBytes = r.live.outElements.Load(), r.live.outBytes.Load()
	for _, o := range r.spec.Outputs {
		sz, err := r.dests[o.Dataset].Writer.Close(ctx)
		if err != nil {
			for id := range r.dests { // those that are closed already don't mind to be aborted
				r.m.cfg.Shuffle.Release(r.partition(id))
			}
			return nil, err
		}
		f.Outputs = append(f.Outputs, OutputSize{Dataset: o.Dataset, Bytes: sz.Bytes, Count: sz.Count, BySub: sz.BySub, Durable: sz.Durable})
	}
	f.Metrics = r.live.committed.Marshal(metricsLimit)
	return f, nil
}

// failed says whose fault err is.
func (r *run) failed(ctx context.Context, err error) *Failed {
	f := &Failed{ID: r.spec.ID, Cause: CauseRunner, Message: fmt.Sprintf("stage %s: %v", r.spec.Stage, err)}
	if r.prog != nil {
		f.Message = fmt.Sprintf("stage %s (%s): %v", r.spec.Stage, r.prog.Node.Name, err)
	}
	lost := shuffle.LostIn(err)
	var worker *fnapi.WorkerLostError
	var broke *fnapi.ProtocolError
	var user *fnapi.UserError
	var keeper *QueueError
	switch {
	case ctx.Err() != nil:
		f.Cause = CauseCanceled
	case len(lost) > 0:
		f.Cause = CausePartition
		for _, l := range lost {
			f.Lost = append(f.Lost, LostPartition{
				Dataset:   jobgraph.DatasetID(l.Partition.Dataset),
				Partition: Partition{Index: l.Partition.Index, Attempt: l.Partition.Attempt},
			})
		}
	case errors.As(err, &keeper):
		f.Cause = CauseKeeper
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		f.Cause = CauseDisk
	case errors.As(err, &worker), errors.As(err, &broke):
		f.Cause = CauseWorker
	case errors.As(err, &user):
		f.Cause, f.Message = CauseUser, r.userMessage(user.Text)
	}
	return f
}

// userMessage tells the author of a pipeline what their code did: first the
// transform and the exception in one line, then the SDK's own words.
func (r *run) userMessage(text string) string {
	where := "one of the transforms " + r.prog.Suspects()
	if name := r.prog.Blame(text); name != "" {
		where = fmt.Sprintf("transform %q", name)
	}
	head := bundle.Headline(text)
	if strings.TrimSpace(text) == head {
		return where + ": " + head
	}
	return where + ": " + head + "\n\n" + text
}
