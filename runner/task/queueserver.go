package task

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/bundle"
	"trestle/shuffle"
)

// How the tasks of other TaskManagers use a queue of restrictions. All calls may
// be made again when their answer was lost: pulls and splits are numbered.
var (
	queueEnter  = cluster.NewCall[queueRef, queueAnswer]("queue", "Enter")
	queuePull   = cluster.NewCall[queueRef, queueAnswer]("queue", "Pull")
	queueSplit  = cluster.NewCall[queueNote, queueAnswer]("queue", "Split")
	queueDone   = cluster.NewCall[queueNote, queueAnswer]("queue", "Done")
	queueHungry = cluster.NewCall[queueRef, queueAnswer]("queue", "Hungry")
	queueStop   = cluster.NewCall[queueRef, queueAnswer]("queue", "Stop")
)

// A queueRef names a task's attempt at a queue, and what it asks for.
type queueRef struct {
	ID
	Generation uint32
	Number     uint64 `json:",omitempty"` // of a pull
	At         bool   `json:",omitempty"` // of Hungry: answer at once
	// Wait is how long Enter waits at most; 0 means as long as all questions.
	Wait time.Duration `json:",omitempty"`
}

// A queueNote says what becomes of what was pulled.
type queueNote struct {
	queueRef
	Split uint64            `json:",omitempty"` // number within the pull
	Kept  [][]byte          `json:",omitempty"`
	Same  bool              `json:",omitempty"` // Kept is what the queue knows already
	Rest  []bundle.Residual `json:",omitempty"`
}

type queueAnswer struct {
	Again  bool     `json:",omitempty"` // nothing to say yet: ask again
	Over   bool     `json:",omitempty"` // the stage is done
	Items  [][]byte `json:",omitempty"`
	Pinned bool     `json:",omitempty"`
	Hungry bool     `json:",omitempty"`
}

const (
	// longPoll is how long a question for what isn't there yet stays unanswered.
	longPoll = 5 * time.Second
	// silentTicks is how many ticks of Run a task elsewhere may be silent before
	// others don't wait for it any more. They are counted by this process, so that
	// its own pauses aren't held against others.
	silentTicks = 30
)

// Kinds of errors that a queue's keeper answers with.
const (
	kindFollowed = "followed" // errFollowed
	kindNoQueue  = "no queue" // errNoQueue
	kindLost     = "lost"     // partitions, in Detail, that feed the queue
)

// Methods are what other TaskManagers call, for a cluster.Server. It must have
// ended before Run does.
func (m *TaskManager) Methods() []cluster.Method {
	return []cluster.Method{
		queueEnter.Serve(m.answerEnter),
		queuePull.Serve(m.answerPull),
		queueSplit.Serve(m.answerSplit),
		queueDone.Serve(m.answerDone),
		queueHungry.Serve(m.answerHungry),
		queueStop.Serve(m.answerStop),
	}
}

func (r *queueRef) key() queueKey { return queueKey{r.Job, r.Stage, r.Generation} }

// mostLost bounds the lost partitions that one answer names.
const mostLost = 200

// kinded makes errors that the caller must tell apart.
func kinded(err error) error {
	if lost := shuffle.LostIn(err); len(lost) > 0 {
		var ids []shuffle.PartitionID
		for _, l := range lost[:min(len(lost), mostLost)] {
			ids = append(ids, l.Partition)
		}
		detail, _ := json.Marshal(ids) // of strings and numbers
		return &cluster.Error{Kind: kindLost, Detail: string(detail), Text: err.Error()}
	}
	var kind string
	switch {
	case errors.Is(err, errFollowed):
		kind = kindFollowed
	case errors.Is(err, errNoQueue):
		kind = kindNoQueue
	default:
		return err
	}
	return &cluster.Error{Kind: kind, Text: err.Error()}
}

// answerEnter waits for a queue whose keeper is told of it at the same time as
// the tasks that use it.
func (m *TaskManager) answerEnter(ctx context.Context, ref *queueRef) (*queueAnswer, error) {
	wait := longPoll
	if ref.Wait > 0 {
		wait = min(wait, ref.Wait)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	q, err := m.offeredQueue(ctx, ref.key())
	if errors.Is(err, context.DeadlineExceeded) {
		return &queueAnswer{Again: true}, nil
	}
	if err != nil {
		return nil, err
	}
	log, err := q.enter(ref.Index, ref.Attempt)
	if err != nil {
		return nil, kinded(err)
	}
	q.visited(log)()
	return &queueAnswer{}, nil
}

// entered finds the log of an attempt. What it returns must be called when the
// call ends: meanwhile the task isn't silent.
func (m *TaskManager) entered(ref *queueRef) (*queue, *taskLog, func(), error) {
	m.mu.Lock()
	q := m.queues[ref.key()]
	m.mu.Unlock()
	if q == nil {
		return nil, nil, nil, kinded(errNoQueue)
	}
	q.mu.Lock()
	log := q.logs[ref.Index]
	q.mu.Unlock()
	if log == nil {
		return nil, nil, nil, kinded(errNoQueue) // one of an earlier process had it
	}
	if log.attempt != ref.Attempt {
		return nil, nil, nil, kinded(errFollowed)
	}
	return q, log, q.visited(log), nil
}

// visited notes a call of a task elsewhere until the returned function is called.
func (q *queue) visited(log *taskLog) func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	log.remote = true
	log.calls++
	log.silent = 0
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		log.calls--
		log.silent = 0
	}
}

func (m *TaskManager) answerPull(ctx context.Context, ref *queueRef) (*queueAnswer, error) {
	q, log, end, err := m.entered(ref)
	if err != nil {
		return nil, err
	}
	defer end()
	waits, cancel := context.WithTimeout(ctx, longPoll)
	defer cancel()
	p, err := q.pull(waits, log, ref.Number)
	switch {
	case err != nil && waits.Err() != nil && ctx.Err() == nil:
		return &queueAnswer{Again: true}, nil
	case err != nil:
		return nil, kinded(err)
	case p == nil:
		return &queueAnswer{Over: true}, nil
	}
	return &queueAnswer{Items: p.items, Pinned: p.pinned}, nil
}

func (m *TaskManager) answerSplit(_ context.Context, n *queueNote) (*queueAnswer, error) {
	q, log, end, err := m.entered(&n.queueRef)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := q.split(log, n.Number, n.Split, n.Kept, n.Rest); err != nil {
		return nil, kinded(err)
	}
	return &queueAnswer{}, nil
}

func (m *TaskManager) answerDone(_ context.Context, n *queueNote) (*queueAnswer, error) {
	q, log, end, err := m.entered(&n.queueRef)
	if err != nil {
		return nil, err
	}
	defer end()
	kept := n.Kept
	if n.Same {
		kept = q.inHand(log)
	}
	if err := q.done(log, n.Number, kept, n.Rest); err != nil {
		return nil, kinded(err)
	}
	return &queueAnswer{}, nil
}

// inHand is what an attempt has at work, as the queue knows it.
func (q *queue) inHand(log *taskLog) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return log.hand
}

// answerHungry tells a task that is at work when another begins to wait.
func (m *TaskManager) answerHungry(ctx context.Context, ref *queueRef) (*queueAnswer, error) {
	q, log, end, err := m.entered(ref)
	if err != nil {
		return nil, err
	}
	defer end()
	if ref.At {
		return &queueAnswer{Hungry: q.stillHungry()}, nil
	}
	late := time.NewTimer(longPoll)
	defer late.Stop()
	for {
		hungry := q.hungry
		if !q.atWork(log) {
			hungry = nil // it may be this very task that waits
		}
		select {
		case <-log.began:
		case <-hungry:
			if q.atWork(log) && ctx.Err() == nil {
				return &queueAnswer{Hungry: true}, nil
			}
			q.stayHungry()
		case <-late.C:
			return &queueAnswer{Again: true}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (q *queue) atWork(log *taskLog) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return log.active
}

// stayHungry puts the token back: another task may have something to give.
func (q *queue) stayHungry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting > 0 {
		select {
		case q.hungry <- struct{}{}:
		default:
		}
	}
}

func (m *TaskManager) answerStop(_ context.Context, ref *queueRef) (*queueAnswer, error) {
	q, log, end, err := m.entered(ref)
	if err != nil {
		return nil, err
	}
	defer end()
	q.stop(log)
	return &queueAnswer{}, nil
}

// tendQueues stops attempts elsewhere that have long been silent.
func (m *TaskManager) tendQueues() {
	m.mu.Lock()
	all := make([]*queue, 0, len(m.queues))
	for _, q := range m.queues {
		all = append(all, q)
	}
	m.mu.Unlock()
	for _, q := range all {
		for _, log := range q.silentLogs() {
			q.stop(log)
		}
	}
}

func (q *queue) silentLogs() []*taskLog {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []*taskLog
	for _, log := range q.logs {
		if !log.remote || log.ended || log.calls > 0 || log.stopped {
			continue
		}
		if log.silent++; log.silent > silentTicks {
			all = append(all, log)
		}
	}
	return all
}
