package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// A Session is a TaskManager of another process, as its JobManager's Dispatcher
// sees it: see package runner's TaskManager for the contract.
type Session struct {
	id     string
	server *Server
	reign  *reign
	hello  *hello
	has    task.Inventory

	lending sync.Mutex // keeps pieces of lists in front of what needs them
	lender  *lender
	out     *outbox // commands

	reports chan task.Report
	over    chan struct{} // closed when the session is
	handed  chan struct{} // closed when the Dispatcher has it, or doesn't want it

	mu         sync.Mutex
	why        string // it is over
	ended      bool
	followed   bool        // by another session of the same TaskManager
	connection *connection // nil while there is none
	in         inbox
	queue      []queued // reports that wait for their reader
	queueBytes int
	passed     uint64 // number of the last report that went out of the queue
	progress   map[task.ID]*task.Progress
	heard      time.Time     // the last word
	ready      chan struct{} // holds a token when there is something to deliver; capacity 1
}

// queued is a report with its number; 0 for those of this end.
type queued struct {
	number uint64
	bytes  int
	report task.Report
}

const (
	reportsAhead = 256 // that wait for the Dispatcher
	// maxQueue bounds what comes faster than the Dispatcher takes it. Clients
	// wait for acknowledgements far below it.
	maxQueue      = 16 * maxReports
	maxQueueBytes = 8 * maxReportsMB
)

func newSession(s *Server, r *reign, h *hello, has task.Inventory) *Session {
	ses := &Session{
		id: newID(), server: s, reign: r, hello: h, has: has,
		out:     newOutbox(make(chan struct{}, 1)),
		reports: make(chan task.Report, reportsAhead), over: make(chan struct{}), handed: make(chan struct{}),
		progress: map[task.ID]*task.Progress{}, heard: time.Now(), ready: make(chan struct{}, 1),
	}
	ses.lender = newLender(h.ListEntries, ses.say)
	h.Inventory = nil // is in has
	if h.Draining {
		ses.queue = append(ses.queue, queued{report: task.Report{Draining: true}})
	}
	return ses
}

// Name is the TaskManager's name.
func (s *Session) Name() string { return s.hello.Name }

// Slots is the number of columns it runs at once.
func (s *Session) Slots() int { return s.hello.Slots }

// Memory is what its process may use, in bytes.
func (s *Session) Memory() int64 { return s.hello.Memory }

// DataAddr is where it serves partitions and queues.
func (s *Session) DataAddr() string { return s.hello.DataAddr }

// Version is that of its Trestle.
func (s *Session) Version() string { return s.hello.Version }

// Inventory is what it had when the session began.
func (s *Session) Inventory(context.Context) (task.Inventory, error) { return s.has, nil }

// Reports gives what happens to its tasks. It is closed when the TaskManager is
// lost or has left, and not when the JobManager leads no more.
func (s *Session) Reports() <-chan task.Report { return s.reports }

// Start runs the tasks in their slot.
func (s *Session) Start(column []task.Spec) {
	s.lending.Lock()
	defer s.lending.Unlock()
	s.lender.begin()
	var cmd command
	for _, t := range column {
		cmd.Start = append(cmd.Start, encodeSpec(s.lender, t))
	}
	if err := s.trySay(cmd); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range column {
			f := &task.Failed{ID: t.ID, Cause: task.CauseRunner, Message: "the task can't be started: " + err.Error()}
			s.queue = append(s.queue, queued{report: task.Report{Failed: f}})
		}
		poke(s.ready)
	}
}

// Cancel stops tasks.
func (s *Session) Cancel(ids []task.ID) {
	if len(ids) > 0 {
		s.say(command{Cancel: ids})
	}
}

// DrainJob has the sources of a job stop.
func (s *Session) DrainJob(job string) { s.say(command{DrainJob: job}) }

// Release forgets partitions.
func (s *Session) Release(job string, dataset jobgraph.DatasetID, partitions []task.Partition) {
	s.say(command{Release: &release{job, dataset, encodePartitions(partitions)}})
}

// ReleaseJob forgets all there is of a job.
func (s *Session) ReleaseJob(job string) { s.say(command{ReleaseJob: job}) }

// MayLeave tells a TaskManager that drains that nobody needs it any more.
func (s *Session) MayLeave() { s.say(command{MayLeave: true}) }

// say queues a command that is small by its nature.
func (s *Session) say(c command) {
	if err := s.trySay(c); err != nil {
		// Its caller has no way to hear of it, and without it the two ends
		// disagree: they begin anew.
		s.finish("can't be told what to do: " + err.Error())
	}
}

// trySay queues a command, unless it is too large. A TaskManager that has
// fallen far behind is given up: in the end it is as good as lost, and memory
// isn't endless.
func (s *Session) trySay(c command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(b) > maxItem {
		return fmt.Errorf("it takes %d bytes to tell, and %d are the most", len(b), maxItem)
	}
	if s.isDone() {
		return nil // it is told nothing more
	}
	s.out.add(b)
	if n, bytes := s.out.waiting(); n > maxCommands || bytes > maxCommandMB {
		s.finish("doesn't keep up with its commands")
	}
	return nil
}

// finish ends the session, unless it is over. Its watch cleans up.
func (s *Session) finish(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended, s.why = true, why
		close(s.over)
	}
}

// giveWay ends all talk with the TaskManager, which has begun another session.
// For its reader this one goes on until that is told of the other.
func (s *Session) giveWay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followed = true
	if s.connection != nil {
		s.connection.end(errReplaced)
		s.connection = nil
	}
}

// isDone reports whether there is nobody to talk to any more.
func (s *Session) isDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended || s.followed
}

func (s *Session) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &cluster.Error{Kind: kindOver, Text: fmt.Sprintf("TaskManager %q %s", s.hello.Name, s.why)}
}

// connected reports whether there is a connection that may be alive.
func (s *Session) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connection != nil && !s.ended
}

// attach makes the connection the session's. What the other end has been sent
// and doesn't have is sent again over it.
func (s *Session) attach(has uint64) (*connection, *welcome, error) {
	cfg := &s.server.cfg
	w := &welcome{Session: s.id, Group: cfg.Group(), Term: s.reign.term, Lease: cfg.Lease, Members: cfg.Members()}
	s.mu.Lock()
	defer s.mu.Unlock()
	over := &cluster.Error{Kind: kindOver, Text: "the session is over"}
	if s.ended || s.followed {
		return nil, nil, over
	}
	epoch, err := s.out.rewind(has)
	if err != nil {
		over.Text = err.Error()
		return nil, nil, over
	}
	if s.connection != nil {
		s.connection.end(errReplaced)
	}
	s.connection = &connection{epoch: epoch, over: make(chan struct{})}
	s.heard = time.Now()
	w.Got = s.in.got.Load()
	return s.connection, w, nil
}

func (s *Session) detach(c *connection) {
	c.end(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connection == c {
		s.connection = nil
	}
}

// read takes what comes over a connection, until it ends.
func (s *Session) read(c *connection, stream *cluster.Stream[down, up]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.take(c, m); err != nil {
			if !errors.Is(err, errReplaced) {
				s.finish("broke the rules: " + err.Error())
			}
			return err
		}
		if m.Leave {
			s.finish("has left")
			return nil
		}
	}
}

// take notes what a message says.
func (s *Session) take(c *connection, m *up) error {
	if err := s.out.ack(m.Ack); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connection != c {
		return errReplaced
	}
	s.heard = time.Now()
	fresh, err := s.in.fresh(m.First, m.Reports)
	if err != nil {
		return err
	}
	for _, b := range fresh {
		r, err := decodeReport(b)
		if err != nil {
			return err
		}
		if len(s.queue) >= maxQueue || s.queueBytes+len(b) > maxQueueBytes {
			return errors.New("reports came without waiting for acknowledgements")
		}
		s.queue = append(s.queue, queued{s.in.got.Add(1), len(b), r})
		s.queueBytes += len(b)
	}
	for _, p := range m.Progress {
		if p == nil {
			return errors.New("progress of no task")
		}
		if _, known := s.progress[p.ID]; known || len(s.progress) < maxProgress {
			s.progress[p.ID] = p
		}
	}
	if len(fresh) > 0 || len(m.Progress) > 0 {
		poke(s.ready)
	}
	return nil
}

// write sends commands, acknowledgements and, in their absence, signs of life
// over a connection, until it ends.
func (s *Session) write(c *connection, stream *cluster.Stream[down, up]) error {
	beat := time.NewTicker(beatOf(s.server.cfg.Lease))
	defer beat.Stop()
	told := uint64(0)
	due := false
	for {
		m := &down{Ack: s.hasPassed()}
		var current bool
		if m.First, m.Commands, current = s.out.take(c.epoch); !current {
			return errReplaced
		}
		if len(m.Commands) > 0 || m.Ack > told || due {
			if err := stream.Send(m); err != nil {
				return err
			}
			told, due = m.Ack, false
			continue
		}
		select {
		case <-s.out.changed:
		case <-beat.C:
			due = true
		case <-c.over:
			return nil
		}
	}
}

// beatOf is how often an end that has nothing to say says so.
func beatOf(lease time.Duration) time.Duration { return max(lease/10, 10*time.Millisecond) }

// patienceOf is how long an end waits for a word before it connects again.
func patienceOf(lease time.Duration) time.Duration { return lease / 2 }

func (s *Session) hasPassed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed
}

// watch ends connections that are silent, and the session when there was no
// word for the time of its lease.
func (s *Session) watch() {
	lease := s.server.cfg.Lease
	tick := time.NewTicker(lease / 10)
	defer tick.Stop()
	before := time.Now()
	for {
		select {
		case <-tick.C:
			now := time.Now()
			s.mu.Lock()
			if now.Sub(before) > lease/3 {
				// This process has been stopped meanwhile, and has not read what
				// came: it can't say who was silent.
				s.heard = now
			}
			before = now
			silent := now.Sub(s.heard)
			if s.followed {
				silent = 0 // another session listens
			}
			if silent > patienceOf(lease) && s.connection != nil {
				s.connection.end(errSilent)
			}
			s.mu.Unlock()
			if silent > lease {
				s.finish(fmt.Sprintf("has given no word for %v", lease))
			}
		case <-s.over:
			s.server.cfg.Log.Warn("a TaskManager is gone", "err", s.refusal())
			s.server.unlist(s)
			return
		case <-s.reign.ctx.Done():
			return
		}
	}
}

// deliver hands reports to their reader. It alone closes the channel: when the
// session is over and all that came has been handed on.
func (s *Session) deliver() {
	for {
		q, there := s.next()
		if !there {
			select {
			case <-s.ready:
				continue
			case <-s.over:
				if q, there = s.next(); !there {
					close(s.reports)
					return
				}
			case <-s.reign.ctx.Done():
				return
			}
		}
		select {
		case s.reports <- q.report:
		case <-s.reign.ctx.Done():
			return
		}
		if q.number > 0 {
			s.mu.Lock()
			s.passed = q.number
			s.mu.Unlock()
			poke(s.out.changed)
		}
	}
}

// next takes a report out of the queue. While there is none, progress is told,
// as far as its reader has room.
func (s *Session) next() (queued, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		for id, p := range s.progress {
			delete(s.progress, id)
			select {
			case s.reports <- task.Report{Progress: p}:
			default: // the next one tells as much
			}
		}
		return queued{}, false
	}
	q := s.queue[0]
	s.queue[0] = queued{}
	s.queue = s.queue[1:]
	s.queueBytes -= q.bytes
	if id, ended := over(q.report); ended {
		delete(s.progress, id)
	}
	return q, true
}
