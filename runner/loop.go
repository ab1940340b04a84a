package runner

import (
	"context"
	"fmt"
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
	"trestle/runner/task"

	"golang.org/x/sync/errgroup"
)

// An input is something that happens: a submission, stopping, joining, lost or
// report.
type input interface {
	tell(ctx context.Context, l *loop)
}

// A loop turns what happens into decisions. Its fields belong to the goroutine
// of run.
type loop struct {
	d     *Dispatcher
	group *errgroup.Group // of Run; owns the goroutines that read reports
	// state holds all records that were decided, also those that are not yet
	// durable; the board has the durable ones.
	state    *catalog.State
	seen     *schedule.Seen
	managers map[string]TaskManager // for look-ups
	leaving  map[string]Leaver      // those that drain and are yet to be told that they can leave
	next     batch                  // what goes with the next decision
	// giveUpAt is when TaskManagers that have not joined by then are lost; zero
	// once it is known who is there.
	giveUpAt time.Time
}

// A batch is made durable, then answered, shown and acted on.
type batch struct {
	records []catalog.Record
	actions []schedule.Action
	joins   []TaskManager // before the actions
	idle    []Leaver      // can leave then
	replies []answer
	jobs    []catalog.JobID // accepted by it
}

// An answer is given when what it is founded on is durable.
type answer struct {
	to  chan<- error // nil when nobody asks
	err error
}

func (b *batch) empty() bool {
	return len(b.records) == 0 && len(b.actions) == 0 && len(b.joins) == 0 && len(b.idle) == 0 && len(b.replies) == 0
}

func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case in := <-l.d.inbox:
			in.tell(ctx, l)
			l.drain(ctx)
		case <-timer.C:
		case <-ctx.Done():
			return errEnded
		}
		wake, err := l.decide(ctx)
		if err != nil {
			return err
		}
		timer.Stop()
		if wake > 0 {
			timer.Reset(time.Until(wake.Time()))
		}
	}
}

// drain takes what else has happened, so that one decision serves for all.
func (l *loop) drain(ctx context.Context) {
	for range inboxSize {
		select {
		case in := <-l.d.inbox:
			in.tell(ctx, l)
		default:
			return
		}
	}
}

// decide hands what follows to the committer.
func (l *loop) decide(ctx context.Context) (wake catalog.Instant, err error) {
	now := time.Now()
	l.look(now)
	got := schedule.Decide(l.state, l.seen, l.d.policy, catalog.At(now))
	if !l.giveUpAt.IsZero() {
		got.WakeAt = catalog.At(l.giveUpAt)
	}
	b := l.next
	l.next = batch{}
	b.records, b.actions = got.Records, got.Actions
	for name, tm := range l.leaving {
		if l.seen.Idle(l.state, name) {
			b.idle = append(b.idle, tm)
			delete(l.leaving, name)
		}
	}
	if b.empty() {
		return got.WakeAt, nil
	}
	select {
	case l.d.commits <- b:
		return got.WakeAt, nil
	case <-ctx.Done():
		return 0, errEnded
	}
}

// look tells, once after a start, that who is not there will not come: when
// all have joined that the log knows of, or have had their time.
func (l *loop) look(now time.Time) {
	if l.giveUpAt.IsZero() {
		return
	}
	var missing []string
	for _, name := range expected(l.state) {
		if l.managers[name] == nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 && now.Before(l.giveUpAt) {
		return
	}
	if len(missing) > 0 {
		l.d.log.Warn("TaskManagers have not come back", "names", missing, "waited", l.d.reconcile)
	}
	l.giveUpAt = time.Time{}
	l.seen.Known(catalog.At(now))
}

// expected are the TaskManagers that the log knows of.
func expected(s *catalog.State) []string {
	var names []string
	for _, m := range s.TaskManagers() {
		names = append(names, m.Name)
	}
	return names
}

type submission struct {
	r     *catalog.JobAccepted
	reply chan<- error
}

func (s submission) tell(_ context.Context, l *loop) {
	if l.state.Job(s.r.Job) != nil || l.submitted(s.r.Job) {
		// Whoever asks again may be told so only when the first word counts.
		l.next.replies = append(l.next.replies, answer{s.reply, fmt.Errorf("submit job %q: %w", s.r.Job, ErrJobExists)})
		return
	}
	l.next.jobs = append(l.next.jobs, s.r.Job)
	l.next.replies = append(l.next.replies, answer{s.reply, nil})
	l.seen.Accepted(s.r)
}

type stopping struct {
	job   catalog.JobID
	mode  catalog.StopMode
	reply chan<- error
}

func (s stopping) tell(_ context.Context, l *loop) {
	j := l.state.Job(s.job)
	if j == nil && !l.submitted(s.job) {
		s.reply <- fmt.Errorf("%s job %q: %w", s.mode, s.job, ErrUnknownJob)
		return
	}
	l.next.replies = append(l.next.replies, answer{s.reply, nil})
	l.seen.StopRequested(&catalog.StopRequested{Job: s.job, At: catalog.At(time.Now()), Mode: s.mode})
}

// submitted reports whether the job is among those that the next decision will
// accept.
func (l *loop) submitted(job catalog.JobID) bool { return slices.Contains(l.next.jobs, job) }

// joining is a TaskManager that has told what it has.
type joining struct {
	tm    TaskManager
	slots int
	has   task.Inventory
	reply chan<- error // nil for those that are there from the start
}

func inventory(ctx context.Context, tm TaskManager) (joining, error) {
	has, err := tm.Inventory(ctx)
	if err != nil {
		return joining{}, fmt.Errorf("ask TaskManager %s what it has: %w", tm.Name(), err)
	}
	return joining{tm: tm, slots: tm.Slots(), has: has}, nil
}

func (j joining) tell(ctx context.Context, l *loop) {
	l.join(ctx, j)
	l.next.replies = append(l.next.replies, answer{j.reply, nil})
}

func (l *loop) join(ctx context.Context, j joining) {
	name := j.tm.Name()
	l.managers[name] = j.tm
	delete(l.leaving, name) // it says so again
	l.next.joins = append(l.next.joins, j.tm)
	runs := make([]schedule.RunningTask, len(j.has.Running))
	for i, r := range j.has.Running {
		runs[i] = schedule.RunningTask{Job: catalog.JobID(r.Job), ID: taskID(r.ID), Slot: r.Slot}
	}
	held := make([]schedule.Held, len(j.has.Held))
	for i, h := range j.has.Held {
		held[i] = schedule.Held{Job: catalog.JobID(h.Job), Dataset: h.Dataset, Partitions: h.Partitions}
	}
	queues := make([]schedule.HeldQueue, len(j.has.Queues))
	for i, q := range j.has.Queues {
		queues[i] = schedule.HeldQueue{Job: catalog.JobID(q.Job), Stage: q.Stage, Generation: q.Generation}
	}
	l.d.board.adopt(name, runs)
	l.seen.Joined(name, j.slots, runs, held, queues)
	l.group.Go(func() error { l.d.listen(ctx, j.tm); return nil })
}

// listen passes a TaskManager's reports on until it is lost. What is only to
// be shown goes to the board at once.
func (d *Dispatcher) listen(ctx context.Context, tm TaskManager) {
	reports := tm.Reports()
	for {
		var in input
		select {
		case r, there := <-reports:
			switch {
			case !there:
				in = lost{tm}
			case r.Started != nil:
				d.board.started(*r.Started, time.Now())
				continue
			case r.Progress != nil:
				d.board.progress(r.Progress)
				continue
			default:
				in = report{r, tm, time.Now()}
			}
		case <-ctx.Done():
			return
		}
		select {
		case d.inbox <- in:
		case <-ctx.Done():
			return
		}
		if _, over := in.(lost); over {
			return
		}
	}
}

type lost struct{ tm TaskManager }

func (x lost) tell(_ context.Context, l *loop) {
	name := x.tm.Name()
	if l.managers[name] != x.tm {
		return // its successor has joined already
	}
	delete(l.managers, name)
	delete(l.leaving, name)
	l.d.board.drop(name)
	l.seen.LostManager(name, catalog.At(time.Now()))
}

// report is the end of a task.
type report struct {
	task.Report
	by TaskManager
	at time.Time
}

func (r report) tell(_ context.Context, l *loop) {
	if l.managers[r.by.Name()] != r.by {
		return // it has joined again since, and has told what counts
	}
	switch {
	case r.Finished != nil:
		done := l.d.finished(r.Finished, r.at)
		done.TaskManager = r.by.Name()
		l.seen.Finished(done)
	case r.Failed != nil:
		f, lostParts := failure(r.Failed, r.at)
		l.seen.Failed(catalog.JobID(r.Failed.Job), f, lostParts)
	case r.Draining:
		l.seen.Draining(r.by.Name())
		if tm, waits := r.by.(Leaver); waits {
			l.leaving[tm.Name()] = tm
		}
	}
}

func taskID(id task.ID) catalog.TaskID {
	return catalog.TaskID{Stage: id.Stage, Index: id.Index, Attempt: id.Attempt}
}

const (
	maxMetricsBytes = 256 << 10 // of one task, in the journal
	maxMessageBytes = 64 << 10  // of one failure, in the journal
)

func (d *Dispatcher) finished(f *task.Finished, at time.Time) *catalog.TaskFinished {
	r := &catalog.TaskFinished{
		Job: catalog.JobID(f.Job), Task: taskID(f.ID),
		Started: catalog.At(d.board.startOf(f.ID)), Ended: catalog.At(at),
		InBytes: f.InBytes, OutBytes: f.OutBytes, InElements: f.InElements, OutElements: f.OutElements,
		Metrics: f.Metrics,
	}
	if len(r.Metrics) > maxMetricsBytes {
		d.log.Warn("a task's metrics are too large to keep", "job", f.Job, "task", r.Task.String(), "bytes", len(r.Metrics))
		r.Metrics = nil
	}
	for _, o := range f.Outputs {
		r.Outputs = append(r.Outputs, catalog.Output{
			Dataset: o.Dataset, Bytes: o.Bytes, Count: o.Count,
			Sketch: catalog.SketchOf(o.BySub), Durable: catalog.Durability(o.Durable),
		})
	}
	return r
}

func failure(f *task.Failed, at time.Time) (catalog.Failure, []schedule.Lost) {
	c := catalog.Failure{
		Kind: failureKind(f.Cause), Task: taskID(f.ID), At: catalog.At(at),
		Message: clipMessage(f.Message),
	}
	var lostParts []schedule.Lost
	for _, p := range f.Lost {
		lostParts = append(lostParts, schedule.Lost{Dataset: p.Dataset, Partition: p.Partition})
	}
	return c, lostParts
}

func failureKind(c task.Cause) catalog.FailureKind {
	switch c {
	case task.CauseUser:
		return catalog.FailureUser
	case task.CauseWorker:
		return catalog.FailureWorker
	case task.CauseDisk:
		return catalog.FailureDisk
	case task.CausePartition:
		return catalog.FailurePartition
	case task.CauseCanceled, task.CauseKeeper:
		return catalog.FailureLost
	}
	return catalog.FailureRunner
}
