package task

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"trestle/internal/membudget"
	"trestle/runner/bundle"
)

// newTestQueue returns a queue whose stage reads nothing, with these elements in it.
func newTestQueue(elements ...string) *queue {
	q := newQueue(func(context.Context) (*readSource, error) { return &readSource{}, nil }, 2, membudget.New(1<<20), os.TempDir())
	var rs []bundle.Residual
	for _, e := range elements {
		rs = append(rs, bundle.Residual{Element: []byte(e)})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.put(rs, anyone)
	return q
}

func words(items [][]byte) string {
	var s []string
	for _, b := range items {
		s = append(s, string(b))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// begin is the next attempt of a task.
func begin(t *testing.T, q *queue, index int) *taskLog {
	t.Helper()
	attempt := uint32(1)
	if old := q.logs[index]; old != nil {
		attempt = old.attempt + 1
	}
	log, err := q.enter(index, attempt)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func take(ctx context.Context, q *queue, log *taskLog) (*pulled, error) {
	return q.pull(ctx, log, log.number+1)
}

func give(t *testing.T, q *queue, log *taskLog, kept [][]byte, rest []bundle.Residual) {
	t.Helper()
	if err := q.done(log, log.number, kept, rest); err != nil {
		t.Fatal(err)
	}
}

func part(q *queue, log *taskLog, kept [][]byte, rest []bundle.Residual) error {
	return q.split(log, log.number, log.splits+1, kept, rest)
}

// pullAll works off the queue as one task and returns what it did.
func pullAll(t *testing.T, q *queue, log *taskLog) string {
	t.Helper()
	var all [][]byte
	for {
		p, err := take(t.Context(), q, log)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return words(all)
		}
		all = append(all, p.items...)
		give(t, q, log, p.items, nil)
	}
}

// An idle task makes the queue hungry, gets what a busy one gives back, and the
// stage ends when nobody is at work any more.
func TestQueueFeedsIdleTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("whole")
		first, second := begin(t, q, 0), begin(t, q, 1)
		busy, err := take(t.Context(), q, first)
		if err != nil || words(busy.items) != "whole" {
			t.Fatalf("pull = %v, %v", busy, err)
		}
		idle := make(chan string, 1)
		go func() { idle <- pullAll(t, q, second) }()
		synctest.Wait()
		select {
		case <-q.hungry:
		default:
			t.Fatal("a task waits, but the queue isn't hungry")
		}
		if err := part(q, first, [][]byte{[]byte("other half")}, []bundle.Residual{{Element: []byte("half")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case got := <-idle:
			t.Fatalf("the idle task ended with %q while another was at work", got)
		default:
		}
		give(t, q, first, [][]byte{[]byte("other half")}, nil)
		if got := <-idle; got != "half" {
			t.Errorf("the idle task did %q, want half", got)
		}
		if got := pullAll(t, q, first); got != "" {
			t.Errorf("the busy task found %q at the end", got)
		}
	})
}

// A task that is tried again gets exactly what its earlier attempt took, less
// what that gave back to others.
func TestQueueAttempts(t *testing.T) {
	q := newTestQueue("a", "b")
	log := begin(t, q, 0)
	if _, err := take(t.Context(), q, log); err != nil {
		t.Fatal(err)
	}
	if err := part(q, log, [][]byte{[]byte("a1")}, []bundle.Residual{{Element: []byte("a2")}}); err != nil {
		t.Fatal(err)
	}
	give(t, q, log, [][]byte{[]byte("a1")}, nil)
	if got := pullAll(t, q, begin(t, q, 1)); got != "a2 b" {
		t.Fatalf("task 1 did %q", got)
	}
	if got := pullAll(t, q, begin(t, q, 0)); got != "a1" {
		t.Errorf("the second attempt did %q, want a1", got)
	}
	if got := pullAll(t, q, begin(t, q, 1)); got != "a2 b" {
		t.Errorf("the second attempt of task 1 did %q, want a2 b", got)
	}
}

// An attempt that is still at work when its successor begins changes nothing any
// more: all that it had, in its hands and before, is the successor's.
func TestQueueFollowed(t *testing.T) {
	q := newTestQueue("a", "b")
	old := begin(t, q, 0)
	if _, err := take(t.Context(), q, old); err != nil {
		t.Fatal(err)
	}
	if err := part(q, old, [][]byte{[]byte("a1")}, []bundle.Residual{{Element: []byte("a2")}}); err != nil {
		t.Fatal(err)
	}
	log := begin(t, q, 0)
	if err := part(q, old, [][]byte{[]byte("a11")}, []bundle.Residual{{Element: []byte("a12")}}); !errors.Is(err, errFollowed) {
		t.Errorf("the old attempt splits: %v", err)
	}
	if err := q.done(old, old.number, [][]byte{[]byte("a11")}, []bundle.Residual{{Element: []byte("a112")}}); !errors.Is(err, errFollowed) {
		t.Errorf("the old attempt ends its bundle: %v", err)
	}
	if _, err := q.enter(0, old.attempt); !errors.Is(err, errFollowed) {
		t.Errorf("the old attempt enters again: %v", err)
	}
	if _, err := take(t.Context(), q, old); !errors.Is(err, errFollowed) {
		t.Errorf("the old attempt pulls: %v", err)
	}
	if got := pullAll(t, q, log); got != "a1 a2 b" {
		t.Errorf("the new attempt did %q, want a1 a2 b", got)
	}
}

// What one task can't do now keeps none from reading on.
func TestQueueReadsOnBehindDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("a")
		first, second := begin(t, q, 0), begin(t, q, 1)
		p, err := take(t.Context(), q, first)
		if err != nil {
			t.Fatal(err)
		}
		give(t, q, first, p.items, []bundle.Residual{{Element: []byte("rest"), Delay: time.Hour}})
		asked := 0
		q.open = func(context.Context) (*readSource, error) {
			asked++
			return nil, errors.New("no such input")
		}
		start := time.Now()
		if _, err := take(t.Context(), q, second); err == nil || time.Since(start) > 0 {
			t.Errorf("the reader was asked after %v: %v", time.Since(start), err)
		}
		// What the reader has lost is lost to all.
		if _, err := take(t.Context(), q, first); err == nil || asked != 1 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	})
}

// What a self-checkpoint leaves waits for its delay and is its own task's; when
// that task is tried again it starts from the whole element.
func TestQueueCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("e")
		log := begin(t, q, 0)
		p, err := take(t.Context(), q, log)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		give(t, q, log, p.items, []bundle.Residual{{Element: []byte("rest"), Delay: time.Minute}})
		p, err = take(t.Context(), q, log)
		if err != nil {
			t.Fatal(err)
		}
		if words(p.items) != "rest" || !p.pinned {
			t.Errorf("pulled %q, pinned %v", words(p.items), p.pinned)
		}
		if d := time.Since(start); d < time.Minute {
			t.Errorf("the rest came after %v, before its delay", d)
		}
		give(t, q, log, p.items, []bundle.Residual{{Element: []byte("more"), Delay: time.Hour}})
		if got := pullAll(t, q, begin(t, q, 0)); got != "e" {
			t.Errorf("the second attempt did %q, want e", got)
		}
	})
}

// Tasks that have had nothing yet get equal shares; those of one that comes again
// become smaller as there is less left.
func TestQueueShares(t *testing.T) {
	for _, c := range []struct {
		turns []int // of tasks
		want  []int
	}{
		{[]int{0, 1}, []int{5, 5}},
		{[]int{0, 0, 0, 0}, []int{5, 3, 1, 1}},
		{[]int{0, 0, 1}, []int{5, 3, 2}},
	} {
		q := newTestQueue(strings.Split("abcdefghij", "")...)
		logs := []*taskLog{begin(t, q, 0), begin(t, q, 1)}
		var shares []int
		for _, i := range c.turns {
			p, err := q.pull(t.Context(), logs[i], uint64(len(shares)+1))
			if err != nil {
				t.Fatal(err)
			}
			shares = append(shares, len(p.items))
			if err := q.done(logs[i], logs[i].number, p.items, nil); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(shares, c.want) {
			t.Errorf("turns of tasks %v: shares %v, want %v", c.turns, shares, c.want)
		}
	}
}

// A task that is cancelled while it waits ends with the reason.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("a")
		first, second := begin(t, q, 0), begin(t, q, 1)
		if _, err := take(t.Context(), q, first); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := take(ctx, q, second)
			ended <- err
		}()
		synctest.Wait()
		cancel(errCanceled)
		if err := <-ended; err != errCanceled {
			t.Errorf("pull = %v, want %v", err, errCanceled)
		}
	})
}

// A task elsewhere that has gone silent doesn't hold the others up; what it took
// is its successor's, whatever it says when it comes back.
func TestQueueSilentTask(t *testing.T) {
	q := newTestQueue("a", "b", "c", "d")
	lost, other := begin(t, q, 0), begin(t, q, 1)
	q.visited(lost)()
	for range 2 {
		if _, err := take(t.Context(), q, lost); err != nil {
			t.Fatal(err)
		}
		if lost.number == 1 {
			give(t, q, lost, lost.hand, nil)
		}
	}
	for range silentTicks {
		for _, log := range q.silentLogs() {
			t.Fatalf("task %d is given up too early", log.index)
		}
	}
	for _, log := range q.silentLogs() {
		q.stop(log)
	}
	if got := pullAll(t, q, other); got != "d" {
		t.Errorf("the other task did %q", got)
	}
	if err := q.done(lost, 2, nil, []bundle.Residual{{Element: []byte("rest")}}); !errors.Is(err, errFollowed) {
		t.Errorf("the lost task ends its bundle: %v", err)
	}
	if got := pullAll(t, q, begin(t, q, 0)); got != "a b c" {
		t.Errorf("the successor did %q", got)
	}
}

// Calls whose answers were lost are made again, to no further effect.
func TestQueueCallsAgain(t *testing.T) {
	q := newTestQueue("a")
	log := begin(t, q, 0)
	if again, err := q.enter(0, log.attempt); again != log || err != nil {
		t.Fatalf("entered twice: %v", err)
	}
	first, err := q.pull(t.Context(), log, 1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := q.pull(t.Context(), log, 1); again != first || err != nil {
		t.Errorf("pulled %v, then %v, %v", first, again, err)
	}
	rest := []bundle.Residual{{Element: []byte("rest")}}
	for range 2 {
		if err := q.split(log, 1, 1, [][]byte{[]byte("half")}, rest); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := q.done(log, 1, [][]byte{[]byte("half")}, nil); err != nil {
			t.Error(err)
		}
	}
	if got := pullAll(t, q, log); got != "rest" {
		t.Errorf("then %q", got)
	}
}

// What was taken waits in a file for the case that it is wanted again, and takes
// no memory.
func TestQueueRemembersInFile(t *testing.T) {
	t.Cleanup(SetLedgerBytes(1))
	for _, again := range []struct {
		name string
		test func(*testing.T)
	}{
		{"attempts", TestQueueAttempts}, {"followed", TestQueueFollowed}, {"checkpoint", TestQueueCheckpoint},
		{"silent", TestQueueSilentTask}, {"calls again", TestQueueCallsAgain},
	} {
		t.Run(again.name, again.test)
	}
	q := newTestQueue("a", "b", "c")
	for _, index := range []int{0, 1, 0, 1} {
		pullAll(t, q, begin(t, q, index))
		if q.ledger.held != 0 {
			t.Errorf("%d bytes are held when all is taken", q.ledger.held)
		}
	}
	if got := pullAll(t, q, begin(t, q, 0)); got != "a b c" {
		t.Errorf("the last attempt did %q", got)
	}
	next := begin(t, q, 0)
	q.ledger.end = q.back[0].off
	if _, err := q.ledger.write([][]byte{[]byte("rubbish")}); err != nil {
		t.Fatal(err)
	}
	if p, err := take(t.Context(), q, next); err == nil {
		t.Errorf("pulled %q from a damaged file", words(p.items))
	}
	q.close()
	if _, err := take(t.Context(), q, next); !errors.Is(err, errNoQueue) {
		t.Errorf("pulled from a closed queue: %v", err)
	}
}
