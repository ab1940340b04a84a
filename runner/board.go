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

// A board shows jobs: the fold of the durable records, and what is known of
// running tasks, which no record holds.
type board struct {
	// state is changed by the committer alone, which may read it without the
	// lock.
	state *catalog.State

	mu   sync.RWMutex
	live map[catalog.JobID]*live // of every job in state
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
	metrics []byte
}

func newBoard() *board {
	return &board{state: catalog.NewState(), live: map[catalog.JobID]*live{}}
}

// replay folds a record of the journal. Nobody looks yet.
func (b *board) replay(r catalog.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Apply(r)
}

// begin makes what is shown of the replayed jobs.
func (b *board) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.state.Jobs() {
		l := b.add(j)
		l.started = firstStart(j)
		if !l.started.IsZero() {
			l.statuses = append(l.statuses, Status{State: catalog.Running, At: l.started})
		}
		l.follow(j, j.Ended)
	}
}

func firstStart(j *catalog.Job) time.Time {
	var first catalog.Instant
	for _, st := range j.Stages {
		for i := range st.Tasks {
			if d := st.Tasks[i].Done; d != nil && d.Started > 0 && (first == 0 || d.Started < first) {
				first = d.Started
			}
		}
	}
	return first.Time()
}

func (b *board) add(j *catalog.Job) *live {
	l := &live{changed: make(chan struct{}), running: map[catalog.TaskID]*runningTask{}}
	l.statuses = append(l.statuses, Status{State: catalog.Starting, At: j.Accepted.Time()})
	b.live[j.ID] = l
	return l
}

// follow notes the state that the job's records have brought it to.
func (l *live) follow(j *catalog.Job, at catalog.Instant) {
	if j.State == catalog.Running {
		return // to be seen when the first task starts
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
	close(l.changed)
	l.changed = make(chan struct{})
}

// publish shows what has become durable, and what is about to be done.
func (b *board) publish(todo []batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, batch := range todo {
		for _, r := range batch.records {
			b.fold(r)
		}
		for _, a := range batch.actions {
			if start, ok := a.(schedule.Start); ok {
				b.launch(start)
			}
		}
	}
}

func (b *board) fold(r catalog.Record) {
	if err := b.state.Apply(r); err != nil {
		panic("invariant broken: what was decided doesn't fit what was written: " + err.Error())
	}
	j := b.state.Job(r.JobID())
	if j == nil {
		delete(b.live, r.JobID())
		return
	}
	l := b.live[j.ID]
	if l == nil {
		l = b.add(j)
	}
	at := j.Ended
	switch r := r.(type) {
	case *catalog.TaskFinished:
		delete(l.running, r.Task)
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
		if j.Stages[j.StageAt(id.Stage)].Tasks[id.Index].Attempt != id.Attempt {
			delete(l.running, id)
		}
	}
}

func (b *board) launch(a schedule.Start) {
	l := b.live[a.Job]
	if l == nil || l.running == nil {
		return
	}
	now := time.Now()
	if l.started.IsZero() {
		l.started = now
		if l.statuses[len(l.statuses)-1].State == catalog.Starting {
			l.come(catalog.Running, now, nil)
		}
	}
	for _, t := range a.Tasks {
		l.running[t.ID] = &runningTask{manager: a.TaskManager, slot: a.Slot}
	}
}

// adopt shows what a TaskManager that joins says it runs.
func (b *board) adopt(manager string, runs []schedule.RunningTask) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range runs {
		j, l := b.state.Job(r.Job), b.live[r.Job]
		if j == nil || l == nil || l.running == nil {
			continue
		}
		at := j.StageAt(r.ID.Stage)
		if at < 0 || r.ID.Index < 0 || r.ID.Index >= len(j.Stages[at].Tasks) || j.Stages[at].Tasks[r.ID.Index].Attempt != r.ID.Attempt {
			continue
		}
		l.running[r.ID] = &runningTask{manager: manager, slot: r.Slot}
	}
}

// drop forgets what a lost TaskManager ran.
func (b *board) drop(manager string) {
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
func (b *board) runs(id task.ID) *runningTask {
	if l := b.live[catalog.JobID(id.Job)]; l != nil {
		return l.running[taskID(id)]
	}
	return nil
}

func (b *board) started(id task.ID, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.runs(id); r != nil && r.started.IsZero() {
		r.started = at
	}
}

func (b *board) progress(p *task.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.runs(p.ID); r != nil {
		r.Amounts = Amounts{InBytes: p.InBytes, OutBytes: p.OutBytes, InElements: p.InElements, OutElements: p.OutElements}
		r.metrics = p.Metrics
	}
}

func (b *board) startOf(id task.ID) time.Time {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if r := b.runs(id); r != nil {
		return r.started
	}
	return time.Time{}
}

// watch yields statuses as they come, without a goroutine of its own.
func (b *board) watch(ctx context.Context, id catalog.JobID, stopped <-chan struct{}) (iter.Seq[Status], error) {
	b.mu.RLock()
	l := b.live[id]
	b.mu.RUnlock()
	if l == nil {
		return nil, fmt.Errorf("watch job %q: %w", id, ErrUnknownJob)
	}
	return func(yield func(Status) bool) {
		for next := 0; ; {
			b.mu.RLock()
			statuses, changed := l.statuses[next:], l.changed
			b.mu.RUnlock()
			for _, s := range statuses {
				if !yield(s) || s.State.Terminal() {
					return
				}
				next++
			}
			if len(statuses) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-stopped:
				return
			}
		}
	}, nil
}
