package runner

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
	"trestle/runner/task"
)

// A Board shows jobs: the fold of the durable records, and, where the jobs are
// led, what is known of running tasks, which no record holds. Every JobManager
// of a group has one and tells it what the log holds, in order; the Dispatcher
// of the one that leads adds the rest. It is safe for concurrent use.
type Board struct {
	messages Messages
	accepted func(job string) // tells of jobs that were accepted; never nil

	mu    sync.RWMutex
	state *catalog.State
	live  map[catalog.JobID]*live // of every job in state
}

// live is what is shown of a job beyond its records.
type live struct {
	started  time.Time // its first task
	statuses []Status  // it has come to, in order; a handful
	changed  chan struct{}
	running  map[catalog.TaskID]*runningTask
}

type runningTask struct {
	manager string
	slot    int
	started time.Time // zero until it was reported
	Amounts
	metrics    []byte
	watermarks *Watermarks // nil unless it streams, and has told
}

// NewBoard returns a Board that shows nothing yet. It posts what records have
// to say to the authors of jobs; messages may be nil.
func NewBoard(messages Messages) *Board {
	if messages == nil {
		messages = noMessages{}
	}
	return &Board{messages: messages, accepted: func(string) {}, state: catalog.NewState(), live: map[catalog.JobID]*live{}}
}

// OnAccepted has f called with every job that is accepted, on whichever
// JobManager, when the Board shows it; f must not wait, nor call the Board. It
// must be called before the Board is told of anything.
func (b *Board) OnAccepted(f func(job string)) { b.accepted = f }

// Restore shows a state in place of what was shown, which it goes on from: the
// one that the log has come to with the entry of that index. The Board owns it
// from here on.
func (b *Board) Restore(_ uint64, state *catalog.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.live
	b.state, b.live = state, map[catalog.JobID]*live{}
	for _, j := range b.state.Jobs() {
		l := before[j.ID]
		if l == nil {
			l = newLive(j)
			b.accepted(string(j.ID))
		}
		delete(before, j.ID)
		b.live[j.ID] = l
		l.begin(firstChoice(j))
		l.follow(j, j.Ended)
		if j.State.Terminal() {
			l.running = nil
		}
	}
	for _, l := range before {
		l.wake() // for those who watch a job that is forgotten
	}
}

// firstChoice is when the first region of a job was about to start.
func firstChoice(j *catalog.Job) time.Time {
	var first catalog.Instant
	for _, r := range j.Regions {
		if r.Chosen > 0 && (first == 0 || r.Chosen < first) {
			first = r.Chosen
		}
	}
	return first.Time()
}

func newLive(j *catalog.Job) *live {
	l := &live{changed: make(chan struct{}), running: map[catalog.TaskID]*runningTask{}}
	l.statuses = append(l.statuses, Status{State: catalog.Starting, At: j.Accepted.Time()})
	return l
}

// begin notes that the job's first region starts; not for a zero time.
func (l *live) begin(at time.Time) {
	if at.IsZero() || !l.started.IsZero() {
		return
	}
	l.started = at
	if l.statuses[len(l.statuses)-1].State == catalog.Starting {
		l.come(catalog.Running, at, nil)
	}
}

// follow notes the state that the job's records have brought it to.
func (l *live) follow(j *catalog.Job, at catalog.Instant) {
	if j.State == catalog.Running {
		return // to be seen when the first region starts
	}
	l.come(j.State, at.Time(), j.Failure)
}

func (l *live) come(state catalog.JobState, at time.Time, why *catalog.Failure) {
	if l.statuses[len(l.statuses)-1].State == state {
		return
	}
	s := Status{State: state, At: at}
	if why != nil {
		s.Error = why.Message
	}
	l.statuses = append(l.statuses, s)
	l.wake()
}

func (l *live) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Apply folds the records of one entry of the log, and shows and posts what
// they say. It must be called with every entry, in order.
func (b *Board) Apply(index uint64, records []catalog.Record) {
	for _, r := range records {
		b.announce(index, r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range records {
		b.fold(r)
	}
}

// launched shows the tasks that are about to be started.
func (b *Board) launched(actions []schedule.Action) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range actions {
		if start, ok := a.(schedule.Start); ok {
			b.launch(start)
		}
	}
}

// abandon forgets what runs: the Dispatcher that knew of it is no more.
func (b *Board) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.live {
		clear(l.running)
	}
}

func (b *Board) fold(r catalog.Record) {
	if err := b.state.Apply(r); err != nil {
		panic("invariant broken: what was decided doesn't fit what was written: " + err.Error())
	}
	j := b.state.Job(r.JobID())
	if j == nil {
		if l := b.live[r.JobID()]; l != nil {
			delete(b.live, r.JobID())
			l.wake()
		}
		return
	}
	l := b.live[j.ID]
	if l == nil {
		l = newLive(j)
		b.live[j.ID] = l
		b.accepted(string(j.ID))
	}
	at := j.Ended
	switch r := r.(type) {
	case *catalog.ParallelismChosen:
		l.begin(r.At.Time())
	case *catalog.TaskFinished:
		first, second := r.Task, r.Task
		first.Attempt--
		second.Attempt++
		for _, id := range []catalog.TaskID{r.Task, first, second} { // at most two ran
			delete(l.running, id)
		}
	case *catalog.TasksReset:
		l.forget(j)
	case *catalog.StopRequested:
		at = r.At
	}
	if j.State.Terminal() {
		l.running = nil
	}
	l.follow(j, at)
}

// forget drops attempts that were given up.
func (l *live) forget(j *catalog.Job) {
	for id := range l.running {
		if !j.Stages[j.StageAt(id.Stage)].Tasks[id.Index].Live(id.Attempt) {
			delete(l.running, id)
		}
	}
}

func (b *Board) launch(a schedule.Start) {
	l := b.live[a.Job]
	if l == nil || l.running == nil {
		return
	}
	for _, t := range a.Tasks {
		l.running[t.ID] = &runningTask{manager: a.TaskManager, slot: a.Slot}
	}
}

// adopt shows what a TaskManager that joins says it runs.
func (b *Board) adopt(manager string, runs []schedule.RunningTask) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range runs {
		j, l := b.state.Job(r.Job), b.live[r.Job]
		if j == nil || l == nil || l.running == nil {
			continue
		}
		at := j.StageAt(r.ID.Stage)
		if at < 0 || r.ID.Index < 0 || r.ID.Index >= len(j.Stages[at].Tasks) || !j.Stages[at].Tasks[r.ID.Index].Live(r.ID.Attempt) {
			continue
		}
		l.running[r.ID] = &runningTask{manager: manager, slot: r.Slot}
	}
}

// drop forgets what a lost TaskManager ran.
func (b *Board) drop(manager string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.live {
		for id, r := range l.running {
			if r.manager == manager {
				delete(l.running, id)
			}
		}
	}
}

// runs returns the running task, or nil. The lock is held.
func (b *Board) runs(id task.ID) *runningTask {
	if l := b.live[catalog.JobID(id.Job)]; l != nil {
		return l.running[taskID(id)]
	}
	return nil
}

func (b *Board) started(id task.ID, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.runs(id); r != nil && r.started.IsZero() {
		r.started = at
	}
}

func (b *Board) progress(p *task.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.runs(p.ID); r != nil {
		r.Amounts = Amounts{InBytes: p.InBytes, OutBytes: p.OutBytes, InElements: p.InElements, OutElements: p.OutElements}
		r.metrics = p.Metrics
		if w := p.Watermarks; w != nil {
			r.watermarks = &Watermarks{Input: Watermark(w.Input), Output: Watermark(w.Output)}
		}
	}
}

func (b *Board) startOf(id task.ID) time.Time {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if r := b.runs(id); r != nil {
		return r.started
	}
	return time.Time{}
}

// Watch yields the states that a job has come to and comes to, each once, from
// STARTING on. It ends after a terminal state, which is never left out, or
// when the job is forgotten or ctx ends.
func (b *Board) Watch(ctx context.Context, id string) (iter.Seq[Status], error) {
	l := b.liveOf(catalog.JobID(id))
	if l == nil {
		return nil, fmt.Errorf("watch job %q: %w", id, ErrUnknownJob)
	}
	return func(yield func(Status) bool) {
		for next := 0; ; {
			b.mu.RLock()
			statuses, changed := l.statuses[next:], l.changed
			forgotten := b.live[catalog.JobID(id)] != l
			b.mu.RUnlock()
			for _, s := range statuses {
				if !yield(s) || s.State.Terminal() {
					return
				}
				next++
			}
			switch {
			case len(statuses) > 0:
				continue
			case forgotten:
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}, nil
}

func (b *Board) liveOf(id catalog.JobID) *live {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.live[id]
}
