package node

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// heldFor is how long a line that a worker process wrote waits for its echo.
const heldFor = 700 * time.Millisecond

// echoes knows what workers have logged of late. Python's worker writes each
// line that it logs to its standard error as well, with level and logger before
// it, and either may come first: who takes such lines holds them for heldFor,
// and then asks whether they are echoes.
type echoes struct {
	seed maphash.Seed

	mu     sync.Mutex
	recent map[string]*heard // by job and worker
}

// heard is what one worker has logged, line by line, in two generations: the
// older one is forgotten when the newer one has been full or old enough.
type heard struct {
	now, before map[uint64]int // how often, by the line's hash
	since       time.Time      // of now
}

// heardLines bounds a generation. It is more than a worker logs within heldFor,
// or else some lines are shown twice.
const heardLines = 16 << 10

func newEchoes() *echoes {
	return &echoes{seed: maphash.MakeSeed(), recent: map[string]*heard{}}
}

func echoKey(job, worker string) string { return job + "\x00" + worker }

// logged notes what a worker has logged.
func (e *echoes) logged(job, worker, text string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.recent[echoKey(job, worker)]
	if h == nil {
		h = &heard{now: map[uint64]int{}, since: now}
		e.recent[echoKey(job, worker)] = h
	}
	for line := range strings.Lines(text) {
		if len(h.now) >= heardLines || now.Sub(h.since) > 4*heldFor {
			h.now, h.before, h.since = map[uint64]int{}, h.now, now
		}
		if line = strings.TrimSpace(line); line != "" {
			h.now[maphash.String(e.seed, line)]++
		}
	}
}

// take reports whether a line that a worker wrote is one that it has logged, and
// if so forgets that one: what is written twice as often as logged is shown.
func (e *echoes) take(job, worker, line string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.recent[echoKey(job, worker)]
	if h == nil {
		return false
	}
	line = strings.TrimSpace(line)
	for range 4 { // as it is, and without what stands before the first colons
		if h.take(maphash.String(e.seed, line)) {
			return true
		}
		_, rest, ok := strings.Cut(line, ":")
		if !ok {
			break
		}
		line = strings.TrimSpace(rest)
	}
	return false
}

func (h *heard) take(hash uint64) bool {
	for _, lines := range []map[uint64]int{h.before, h.now} {
		if lines[hash] > 0 {
			lines[hash]--
			return true
		}
	}
	return false
}

// expire forgets workers that have been silent for long.
func (e *echoes) expire(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, h := range e.recent {
		if now.Sub(h.since) > time.Minute {
			delete(e.recent, k)
		}
	}
}
