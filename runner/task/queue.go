package task

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"trestle/internal/membudget"
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
	open  func(ctx context.Context) (*readSource, error)
	tasks int // of the stage

	mu      sync.Mutex
	closed  bool
	reader  *readSource // nil before the first pull
	opened  bool
	drained bool // the reader has given all it had
	reading bool // one task is at the reader, outside the lock
	items   []item
	back    []page // of attempts that ended: to be read again, before the reader
	ledger  ledger
	active  int              // logs that are
	waiting int              // tasks in pull with nothing to do
	failed  error            // of the reader, which can't be asked again
	logs    map[int]*taskLog // by task index; those of the last attempts
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

// maxPull and maxPullBytes bound the restrictions of one bundle.
const (
	maxPull      = 1000
	maxPullBytes = 4 << 20 // and one more restriction
)

// A taskLog is what one attempt of one task has taken out and not given back.
type taskLog struct {
	index   int
	attempt uint32
	taken   [][]byte // done with; and those of pages
	pages   []page
	bytes   int      // of taken
	hand    [][]byte // at work
	number  uint64   // of pulls that gave something
	last    *pulled  // what the last of them gave, while active
	active  bool     // between pull and done
	ended   bool     // pull has told it that the stage is done
	splits  uint64   // of the last pull
	stopped bool     // it can neither pull nor give back any more

	// Of a task elsewhere; see remote queues.
	remote bool
	began  chan struct{} // of capacity 1: it has become active
	calls  int           // that are being answered
	silent int           // ticks since the last one
}

var (
	errFollowed = errors.New("another attempt of the task has begun, or it was given up")
	errNoQueue  = errors.New("the stage's queue of restrictions was released")
)

func newQueue(open func(ctx context.Context) (*readSource, error), tasks int, budget *membudget.Budget, dir string) *queue {
	return &queue{
		open:    open,
		tasks:   max(1, tasks),
		ledger:  ledger{dir: dir, budget: budget},
		logs:    map[int]*taskLog{},
		changed: make(chan struct{}),
		hungry:  make(chan struct{}, 1),
	}
}

// enter says that an attempt of a task begins. What earlier attempts of it had
// taken is there to be pulled again. It may be said again, and an earlier attempt
// comes too late.
func (q *queue) enter(index int, attempt uint32) (*taskLog, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if old := q.logs[index]; old != nil {
		switch {
		case old.attempt > attempt:
			return nil, errFollowed
		case old.attempt == attempt:
			return old, nil
		}
		q.giveBack(old)
	}
	log := &taskLog{index: index, attempt: attempt, began: make(chan struct{}, 1)}
	q.logs[index] = log
	q.wake()
	return log, nil
}

// giveBack ends an attempt: all that it took can be pulled again, by anyone. The
// lock is held.
func (q *queue) giveBack(log *taskLog) {
	q.dropOwned(log.index)
	q.rest(log)
	for _, e := range slices.Concat(log.taken, log.hand) {
		q.items = append(q.items, item{element: e, owner: anyone})
	}
	q.back = append(q.back, log.pages...)
	log.taken, log.hand, log.pages, log.bytes = nil, nil, nil, 0
}

// dropOwned drops the items that only one task may pull. The lock is held.
func (q *queue) dropOwned(index int) {
	q.items = slices.DeleteFunc(q.items, func(it item) bool {
		if it.owner == index {
			q.ledger.count(-sizeOf(it.element))
		}
		return it.owner == index
	})
}

// current reports whether the log's attempt may go on. The lock is held.
func (q *queue) current(log *taskLog) bool { return q.logs[log.index] == log && !log.stopped }

// rest ends what pull began. The lock is held.
func (q *queue) rest(log *taskLog) {
	if !log.active {
		return
	}
	if log.last.pinned {
		q.ledger.count(-sizeOf(log.last.items...)) // the whole of it is taken
	}
	log.active, log.last = false, nil
	q.active--
}

// stop ends an attempt that will not go on, and can't if it tries. What it took
// waits for its successor, so that what makes tasks fail doesn't go round; but the
// other tasks need not wait for that: they may have all the slots.
func (q *queue) stop(log *taskLog) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.logs[log.index] != log || log.stopped {
		return
	}
	log.stopped = true
	q.dropOwned(log.index) // as enter would
	q.rest(log)
	q.wake()
}

// pull waits for work; nil means that the stage is done. Between pull and done
// the task counts as at work: what it gives back may feed the others. Asked
// again for the same number, it gives the same.
func (q *queue) pull(ctx context.Context, log *taskLog, number uint64) (*pulled, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if log.active && q.current(log) {
			if log.number != number {
				return nil, errors.New("the task pulls, but has not ended its last bundle")
			}
			return log.last, nil
		}
		got, next, err := q.take(ctx, log)
		if err != nil {
			return nil, err
		}
		if log.active { // while the lock was not held: by the same pull, asked again
			continue
		}
		if got != nil {
			log.active, log.last, log.number, log.splits = true, got, number, 0
			q.active++
			select {
			case log.began <- struct{}{}:
			default: // whoever waits for it will look anyway
			}
			if !got.pinned { // else the element that it is the rest of is taken
				log.hand = got.items
			}
			return got, nil
		}
		if q.drained && len(q.back) == 0 && len(q.items) == 0 && q.active == 0 {
			log.ended = true
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
		if q.closed {
			return nil, next, errNoQueue
		}
		if !q.current(log) {
			return nil, next, errFollowed
		}
		if q.failed != nil {
			return nil, next, q.failed
		}
		if log.active {
			return nil, next, nil
		}
		if q.wantsMore() {
			if err := q.read(ctx); err != nil {
				return nil, next, err
			}
			continue
		}
		if got, next = q.ripe(log); got != nil || q.drained && len(q.back) == 0 || q.reading {
			return got, next, nil
		}
		if err := q.read(ctx); err != nil {
			return nil, next, err
		}
	}
}

// ripe takes out a share of what the task may do now. What a task has not begun
// comes back when another one has nothing.
func (q *queue) ripe(log *taskLog) (got *pulled, next time.Time) {
	index, want := log.index, min(q.share(log), maxPull)
	now := time.Now()
	bytes := 0
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
			bytes = len(it.element)
			continue
		case len(got.items) < want && bytes < maxPullBytes && got.pinned == pinned:
			got.items = append(got.items, it.element)
			bytes += len(it.element)
			continue
		}
		keep = append(keep, it)
	}
	clear(q.items[len(keep):])
	q.items = keep
	return got, next
}

// share is how many restrictions of those at hand a task takes. Its first share
// is one of equal ones for all tasks that have none yet: the end of a bundle costs
// the SDK something, so the fewer the better. Who comes again takes one part in P
// of P tasks, so that bundles are small at the end (Polychronopoulos and Kuck,
// "Guided Self-Scheduling", 1987).
func (q *queue) share(log *taskLog) int {
	among := q.tasks
	if log.number == 0 {
		for _, other := range q.logs {
			if other.number > 0 {
				among--
			}
		}
	}
	among = max(1, among)
	return (len(q.items) + among - 1) / among
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
func (q *queue) split(log *taskLog, number, split uint64, kept [][]byte, rest []bundle.Residual) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.current(log) || !log.active || log.number != number {
		return errFollowed // the whole is its successor's
	}
	if split <= log.splits {
		return nil // said before
	}
	log.splits = split
	q.ledger.count(sizeOf(kept...) - sizeOf(log.hand...))
	log.hand = kept
	q.put(rest, anyone)
	return nil
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
		q.ledger.count(sizeOf(it.element))
	}
	q.wake()
}

// stillHungry reports whether a task waits while there is nothing for it.
func (q *queue) stillHungry() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting > 0 && len(q.items) == 0
}

// done ends the work that pull began: kept is what splits left of it to the
// task, rest its self-checkpoint.
func (q *queue) done(log *taskLog, number uint64, kept [][]byte, rest []bundle.Residual) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.current(log) {
		return errFollowed // its successor does it all again
	}
	if !log.active {
		return nil // said before
	}
	if log.number != number {
		return errors.New("the task ends a bundle that isn't its last")
	}
	pinned := log.last.pinned
	q.rest(log)
	defer q.wake()
	if !pinned {
		q.ledger.count(sizeOf(kept...) - sizeOf(log.hand...))
		log.taken = append(log.taken, kept...)
		log.bytes += sizeOf(kept...)
		log.hand = nil
		q.remember(log)
	}
	q.put(rest, log.index)
	return nil
}

// remember puts what a task has taken into the file, if it is much. The lock is
// held: it is a write to the system's cache, and seldom. If it fails, it stays in
// memory.
func (q *queue) remember(log *taskLog) {
	if log.bytes < ledgerBytes {
		return
	}
	p, err := q.ledger.write(log.taken)
	if err != nil {
		return
	}
	q.ledger.count(-log.bytes)
	log.pages = append(log.pages, p)
	log.taken, log.bytes = nil, 0
}

// wake makes waiting tasks look again. The lock is held.
func (q *queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// close frees the reader. Who still asks gets an error.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.failed = true, errNoQueue
	q.items, q.back, q.logs = nil, nil, map[int]*taskLog{}
	q.ledger.close()
	q.wake()
	if !q.reading { // else who reads does it
		q.closeReader()
	}
}

// closeReader is called once. The lock is held.
func (q *queue) closeReader() {
	if q.reader != nil {
		q.reader.close()
		q.reader = nil
	}
}
