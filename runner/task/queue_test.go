package task

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"trestle/runner/bundle"
)

// newTestQueue returns a queue whose stage reads nothing, with these elements in it.
func newTestQueue(elements ...string) *queue {
	q := newQueue(func(context.Context) (*readSource, error) { return &readSource{}, nil })
	var rs []bundle.Residual
	for _, e := range elements {
		rs = append(rs, bundle.Residual{Element: []byte(e)})
	}
	q.giveBack(rs)
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

// pullAll works off the queue as one task and returns what it did.
func pullAll(t *testing.T, q *queue, index int) string {
	t.Helper()
	var all [][]byte
	for {
		p, err := q.pull(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return words(all)
		}
		all = append(all, p.items...)
		q.done(index, p, p.items, nil)
	}
}

// An idle task makes the queue hungry, gets what a busy one gives back, and the
// stage ends when nobody is at work any more.
func TestQueueFeedsIdleTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("whole")
		q.enter(0, 1)
		q.enter(1, 1)
		busy, err := q.pull(t.Context(), 0)
		if err != nil || words(busy.items) != "whole" {
			t.Fatalf("pull = %v, %v", busy, err)
		}
		idle := make(chan string, 1)
		go func() { idle <- pullAll(t, q, 1) }()
		synctest.Wait()
		select {
		case <-q.hungry:
		default:
			t.Fatal("a task waits, but the queue isn't hungry")
		}
		q.giveBack([]bundle.Residual{{Element: []byte("half")}})
		synctest.Wait()
		select {
		case got := <-idle:
			t.Fatalf("the idle task ended with %q while another was at work", got)
		default:
		}
		q.done(0, busy, [][]byte{[]byte("other half")}, nil)
		if got := <-idle; got != "half" {
			t.Errorf("the idle task did %q, want half", got)
		}
		if got := pullAll(t, q, 0); got != "" {
			t.Errorf("the busy task found %q at the end", got)
		}
	})
}

// A task that is tried again gets exactly what its earlier attempt took, less
// what that gave back to others.
func TestQueueAttempts(t *testing.T) {
	q := newTestQueue("a", "b")
	q.enter(0, 1)
	p, err := q.pull(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	q.giveBack([]bundle.Residual{{Element: []byte("a2")}})
	q.done(0, p, [][]byte{[]byte("a1")}, nil)
	q.enter(1, 1)
	if got := pullAll(t, q, 1); got != "a2 b" {
		t.Fatalf("task 1 did %q", got)
	}
	q.enter(0, 2)
	if got := pullAll(t, q, 0); got != "a1" {
		t.Errorf("the second attempt did %q, want a1", got)
	}
	q.enter(1, 2)
	if got := pullAll(t, q, 1); got != "a2 b" {
		t.Errorf("the second attempt of task 1 did %q, want a2 b", got)
	}
}

// What a self-checkpoint leaves waits for its delay and is its own task's; when
// that task is tried again it starts from the whole element.
func TestQueueCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("e")
		q.enter(0, 1)
		p, err := q.pull(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		q.done(0, p, p.items, []bundle.Residual{{Element: []byte("rest"), Delay: time.Minute}})
		p, err = q.pull(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if words(p.items) != "rest" || !p.pinned {
			t.Errorf("pulled %q, pinned %v", words(p.items), p.pinned)
		}
		if d := time.Since(start); d < time.Minute {
			t.Errorf("the rest came after %v, before its delay", d)
		}
		q.done(0, p, p.items, []bundle.Residual{{Element: []byte("more"), Delay: time.Hour}})
		q.enter(0, 2)
		if got := pullAll(t, q, 0); got != "e" {
			t.Errorf("the second attempt did %q, want e", got)
		}
	})
}

// A task that is cancelled while it waits ends with the reason.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue("a")
		q.enter(0, 1)
		q.enter(1, 1)
		if _, err := q.pull(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := q.pull(ctx, 1)
			ended <- err
		}()
		synctest.Wait()
		cancel(errCanceled)
		if err := <-ended; err != errCanceled {
			t.Errorf("pull = %v, want %v", err, errCanceled)
		}
	})
}
