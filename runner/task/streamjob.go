package task

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"trestle/element"
	"trestle/runner/jobgraph"
)

// A streamJob is what the tasks of a streaming job in this process share: the
// job's clock, and the knowledge of when nothing is left to be done.
//
// The clock is the real one, or that of the job's TestStreams. Theirs moves only
// when the job is quiet: each of its stages runs, and no element, mark, ripe
// timer or bundle is on its way. To know that, what is sent is counted before
// it is sent, and counted off when all that came of it has been counted.
type streamJob struct {
	stages int
	played bool
	// draining is closed when the sources are to stop.
	draining chan struct{}

	mu      sync.Mutex
	joined  int
	pending int64 // of what was counted by begin
	seats   []*seat
	now     element.Timestamp // when played
	plays   map[string]*play
	players int           // tasks that play
	changed chan struct{} // closed and renewed when a player may go on
	pools   map[jobgraph.StageID]*restrictionPool
}

// A seat is a task's place at the clock.
type seat struct {
	wake  chan struct{} // of capacity 1: look again
	moves int64         // of the clock that the task hasn't looked at; each counts as pending
	next  element.Timestamp
}

// A play is one TestStream, which several tasks may play together.
type play struct {
	origin  string
	at      int // the event whose turn it is
	events  int
	playing bool // one of them plays it
	tags    []string
}

// streamJob finds or makes what the tasks of a job share.
func (m *TaskManager) streamJob(job string, stages int, played bool) *streamJob {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.streams[job]
	if j == nil {
		j = &streamJob{
			stages: stages, played: played, now: element.Timestamp(time.Now().UnixMilli()),
			plays: map[string]*play{}, changed: make(chan struct{}), draining: make(chan struct{}),
		}
		m.streams[job] = j
		if m.drains[job] {
			j.drain()
		}
	}
	return j
}

// drain has the sources stop: what is left of TestStreams is not played.
func (j *streamJob) drain() {
	if j.drained() {
		return
	}
	close(j.draining)
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.changed)
	j.changed = make(chan struct{})
}

// drained reports whether the sources are to stop. (The TaskManager's lock
// keeps drain from being called twice at once.)
func (j *streamJob) drained() bool {
	select {
	case <-j.draining:
		return true
	default:
		return false
	}
}

// join gives a task its seat. Until it has called done(1), the job isn't quiet.
func (j *streamJob) join() *seat {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &seat{wake: make(chan struct{}, 1), next: element.MaxTimestamp}
	j.seats = append(j.seats, s)
	j.joined++
	j.pending++
	return s
}

// begin counts what is about to be sent.
func (j *streamJob) begin(n int64) {
	if j.played {
		j.mu.Lock()
		j.pending += n
		j.mu.Unlock()
	}
}

// done counts off what came, and notes when the task wants to be woken.
func (j *streamJob) done(s *seat, n int64, next element.Timestamp) {
	if !j.played {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s.next = next
	j.pending -= n
	j.look()
}

// quiet reports whether nothing is on its way. (j.mu is held.)
func (j *streamJob) quiet() bool { return j.joined == j.stages && j.pending == 0 }

// look lets whoever waits for quiet go on. When all is played, time passes by
// itself. (j.mu is held.)
func (j *streamJob) look() {
	if !j.quiet() {
		return
	}
	if j.players > 0 {
		close(j.changed)
		j.changed = make(chan struct{})
		return
	}
	next := element.MaxTimestamp
	for _, s := range j.seats {
		next = min(next, s.next)
	}
	if next < element.MaxTimestamp {
		j.move(max(j.now, next))
	}
}

// move sets the clock. (j.mu is held.)
func (j *streamJob) move(to element.Timestamp) {
	j.now = to
	for _, s := range j.seats {
		s.moves++
		j.pending++
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// stay takes a task that doesn't look at the clock away from it.
func (j *streamJob) stay(s *seat) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seats = slices.DeleteFunc(j.seats, func(other *seat) bool { return other == s })
	j.pending -= s.moves
	s.moves = 0
}

// moved tells how often the clock has moved since it was asked.
func (j *streamJob) moved(s *seat) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := s.moves
	s.moves = 0
	return n
}

// leave gives the seat up.
func (j *streamJob) leave(s *seat) {
	j.stay(s)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.played {
		j.look()
	}
}

// time is the job's processing time.
func (j *streamJob) time() element.Timestamp {
	if !j.played {
		return element.Timestamp(time.Now().UnixMilli())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.now
}

// endOfTime is the latest that a played clock shows; what is ripe later is never
// ripe.
const endOfTime = element.MaxTimestamp - 1

// advance moves the clock of a played job.
func (j *streamJob) advance(millis int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	to := endOfTime
	if millis < int64(math.MaxInt64/1000)-max(int64(j.now), 0) {
		to = min(to, j.now+element.Timestamp(millis))
	}
	j.move(max(to, j.now))
}

// player enters a task that plays a TestStream's events.
func (j *streamJob) player(origin, tag string, events int) *play {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.plays[origin]
	if p == nil {
		p = &play{origin: origin, events: events}
		j.plays[origin] = p
	}
	j.players++
	p.tags = append(p.tags, tag)
	return p
}

// turn waits until the job is quiet and it is the turn of an event from at on
// of this play that the task has. Then the event is pending; playedOne ends it.
// It is -1 when all are played.
func (j *streamJob) turn(ctx context.Context, p *play, mine func(event int) bool) (event int, err error) {
	for {
		j.mu.Lock()
		if !p.playing && j.drained() {
			p.at = p.events + 1
		}
		if j.quiet() && !p.playing && p.at <= p.events && j.first(p) && mine(p.at) {
			p.playing = true
			j.pending++
			j.mu.Unlock()
			return p.at, nil
		}
		if p.at > p.events {
			j.mu.Unlock()
			return -1, nil
		}
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// exit ends what player began.
func (j *streamJob) exit() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.players--
	j.look()
}

// first reports whether no other play is behind this one. (j.mu is held.)
func (j *streamJob) first(p *play) bool {
	for _, q := range j.plays {
		if q.at > q.events {
			continue
		}
		if q.at < p.at || q.at == p.at && q.origin < p.origin {
			return false
		}
	}
	return true
}

// playedOne ends an event.
func (j *streamJob) playedOne(p *play) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p.playing = false
	p.at++
	j.pending--
	j.look()
	close(j.changed)
	j.changed = make(chan struct{})
}

// calm waits until the job is quiet and all is played.
func (j *streamJob) calm(ctx context.Context) error {
	for {
		j.mu.Lock()
		over := j.quiet()
		for _, p := range j.plays {
			over = over && p.at > p.events
		}
		changed := j.changed
		j.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
