package task

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"trestle/coders"
	"trestle/runner/bundle"
)

// A queue holds the work of one stage whose root is restrictions. All tasks of
// the stage pull from it, and what a split or a self-checkpoint leaves over
// comes back to it.
//
// What a task has pulled is remembered until the stage is done: when the task
// is tried again, all that its earlier attempt had consumed comes back, less
// what that attempt had given back itself, so that nothing is read twice or
// lost whichever tasks of the stage run again. An attempt that another one has
// followed can neither pull nor give back any more: it may still be at work, and
// what it had in its hands is with its successor.
type queue struct {
	open func(ctx context.Context) (*readSource, error)

	mu      sync.Mutex
	reader  *readSource // nil before the first pull
	opened  bool
	drained bool // the reader has given all it had
	reading bool // one task is at the reader, outside the lock
	items   []item
	active  int              // tasks between pull and done
	waiting int              // tasks in pull with nothing to do
	failed  error            // of the reader, which can't be asked again
	logs    map[int]*taskLog // by task index
	changed chan struct{}    // closed and renewed when a waiting task should look again
	hungry  chan struct{}    // holds one token while a task waits; capacity 1
}

type item struct {
	element []byte
	after   time.Time // zero: at once
	// owner is the task that alone may pull the item, or anyone. What a
	// self-checkpoint leaves is its task's: nobody knows the primary, so if the
	// task runs again it must run the whole element, and no other task may have
	// done the rest meanwhile.
	owner int
}

const anyone = -1

// A pulled batch is some work in the hands of one task.
type pulled struct {
	items  [][]byte
	pinned bool // must not be split: see item.owner
}

// maxPull bounds the restrictions of one bundle.
const maxPull = 1000

// A taskLog is what one attempt of one task has taken out and not given back.
type taskLog struct {
	index int
	taken [][]byte // done with
	hand  [][]byte // at work
}

var errFollowed = errors.New("another attempt of the task has begun")

// queue returns the queue that the run's task shares.
func (m *TaskManager) queue(r *run) *queue {
	k := queueKey{r.spec.Job, r.spec.Stage, r.spec.Queue}
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queues[k]
	if q == nil {
		q = newQueue(r.openRead)
		m.queues[k] = q
	}
	return q
}

func newQueue(open func(ctx context.Context) (*readSource, error)) *queue {
	return &queue{
		open:    open,
		logs:    map[int]*taskLog{},
		changed: make(chan struct{}),
		hungry:  make(chan struct{}, 1),
	}
}

// enter says that an attempt of a task begins. What earlier attempts of it had
// taken is there to be pulled again.
func (q *queue) enter(index int) *taskLog {
	q.mu.Lock()
	defer q.mu.Unlock()
	if old := q.logs[index]; old != nil {
		q.items = slices.DeleteFunc(q.items, func(it item) bool { return it.owner == index })
		for _, e := range slices.Concat(old.taken, old.hand) {
			q.items = append(q.items, item{element: e, owner: anyone})
		}
	}
	log := &taskLog{index: index}
	q.logs[index] = log
	q.wake()
	return log
}

// pull waits for work; nil means that the stage is done. Between pull and done
// the task counts as at work: what it gives back may feed the others.
func (q *queue) pull(ctx context.Context, log *taskLog) (*pulled, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		got, next, err := q.take(ctx, log)
		if err != nil {
			return nil, err
		}
		if got != nil {
			q.active++
			if !got.pinned { // else the element that it is the rest of is taken
				log.hand = got.items
			}
			return got, nil
		}
		if q.drained && len(q.items) == 0 && q.active == 0 {
			q.wake()
			return nil, nil
		}
		if err := q.wait(ctx, next); err != nil {
			return nil, err
		}
	}
}

// take collects ripe items, reading more where there are none. It tells when
// the next unripe one is due. The lock is held, but not while reading.
func (q *queue) take(ctx context.Context, log *taskLog) (got *pulled, next time.Time, err error) {
	for {
		if q.logs[log.index] != log {
			return nil, next, errFollowed
		}
		if q.failed != nil {
			return nil, next, q.failed
		}
		if got, next = q.ripe(log.index); got != nil || q.drained || q.reading {
			return got, next, nil
		}
		if err := q.read(ctx); err != nil {
			return nil, next, err
		}
	}
}

// ripe takes out a share of what the task may do now.
func (q *queue) ripe(index int) (got *pulled, next time.Time) {
	// A share that leaves some for the others, and for later.
	want := min(max(1, len(q.items)/(4*max(1, len(q.logs)))), maxPull)
	now := time.Now()
	keep := q.items[:0]
	for _, it := range q.items {
		pinned := it.owner != anyone
		switch {
		case pinned && it.owner != index:
		case it.after.After(now):
			if next.IsZero() || it.after.Before(next) {
				next = it.after
			}
		case got == nil:
			got = &pulled{items: [][]byte{it.element}, pinned: pinned}
			continue
		case len(got.items) < want && got.pinned == pinned:
			got.items = append(got.items, it.element)
			continue
		}
		keep = append(keep, it)
	}
	clear(q.items[len(keep):])
	q.items = keep
	return got, next
}

// read fetches a block. It gives up the lock meanwhile.
func (q *queue) read(ctx context.Context) error {
	q.reading = true
	q.mu.Unlock()
	elems, err := q.readBlock(ctx)
	q.mu.Lock()
	q.reading = false
	q.wake()
	if errors.Is(err, io.EOF) {
		q.drained = true
		return nil
	}
	if err != nil && ctx.Err() == nil {
		// What it would have given is lost to the others, too.
		q.failed = err
	}
	for _, e := range elems {
		q.items = append(q.items, item{element: e, owner: anyone})
	}
	return err
}

func (q *queue) readBlock(ctx context.Context) ([][]byte, error) {
	if !q.opened {
		r, err := q.open(context.WithoutCancel(ctx)) // outlives the task that opens it
		if err != nil {
			return nil, err
		}
		q.reader, q.opened = r, true
	}
	block, _, err := q.reader.fill(ctx, nil, math.MaxInt)
	if err != nil {
		return nil, err
	}
	return cutAll(q.reader.w, block)
}

// cutAll cuts a block into its elements, which alias it.
func cutAll(w *coders.Windowed, block []byte) (elems [][]byte, err error) {
	var v coders.Value
	for len(block) > 0 {
		if block, err = w.Next(block, &v); err != nil {
			return nil, err
		}
		elems = append(elems, v.Raw)
	}
	return elems, nil
}

// wait sleeps until something changes or the next item is due. A task that
// waits makes the queue hungry.
func (q *queue) wait(ctx context.Context, next time.Time) error {
	q.waiting++
	select {
	case q.hungry <- struct{}{}:
	default:
	}
	changed := q.changed
	q.mu.Unlock()
	var due <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		due = t.C
	}
	var err error
	select {
	case <-changed:
	case <-due:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	q.mu.Lock()
	q.waiting--
	if q.waiting == 0 {
		select {
		case <-q.hungry:
		default:
		}
	}
	return err
}

// split notes that a task keeps less of what it has pulled, and hands what is
// left over to any task. It is one step: a successor of the attempt finds either
// the whole with it or the parts.
func (q *queue) split(log *taskLog, kept [][]byte, rest []bundle.Residual) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.logs[log.index] != log {
		return // the whole is its successor's
	}
	log.hand = kept
	q.put(rest, anyone)
}

// put adds items. The lock is held.
func (q *queue) put(rs []bundle.Residual, owner int) {
	now := time.Now()
	for _, r := range rs {
		it := item{element: append([]byte(nil), r.Element...), owner: owner}
		if r.Delay > 0 {
			it.after = now.Add(r.Delay)
		}
		q.items = append(q.items, it)
	}
	q.wake()
}

// stillHungry reports whether a task waits while there is nothing for it.
func (q *queue) stillHungry() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting > 0 && len(q.items) == 0
}

// done ends the work that pull began, committed or not: kept is what splits
// left of it to the task, rest its self-checkpoint.
func (q *queue) done(log *taskLog, p *pulled, kept [][]byte, rest []bundle.Residual) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
	defer q.wake()
	if q.logs[log.index] != log {
		return // its successor does it all again
	}
	if !p.pinned {
		log.taken = append(log.taken, kept...)
		log.hand = nil
	}
	q.put(rest, log.index)
}

// wake makes waiting tasks look again. The lock is held.
func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// close frees the reader.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.reader != nil {
		q.reader.close()
	}
}
