package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/invariant"
	"trestle/runner/joblog"
)

// ServerConfig is what a Server works with.
type ServerConfig struct {
	// Leader is who leads, as far as this JobManager knows: where its Server is.
	Leader func() (addr string, term uint64, ok bool)
	// Confirm returns nil once a majority of the JobManagers has said, after the
	// call, that this one leads. It may be nil.
	Confirm func(ctx context.Context) error
	// Group is the id of the JobManagers' group. It may be nil.
	Group func() string
	// Members are the addresses of all JobManagers, so that TaskManagers find
	// those that they were not configured with. It may be nil.
	Members func() []string
	// Lease is how long a TaskManager may give no word until it is lost.
	// Default: 10 s.
	Lease time.Duration
	// Lines takes log lines, in order and, as long as this Server lives, once
	// each. Those that it fails to take are sent again, ten times at most. Source
	// names the process that they come from. It may be nil.
	Lines func(job, source string, seq uint64, entries []joblog.Entry) error
	// Have is the number of the last lines of a source that were taken before
	// this Server lived. It may be nil.
	Have func(source string) uint64
	Log  *slog.Logger // may be nil
}

// A Server is the JobManager's end of sessions with TaskManagers.
type Server struct {
	cfg ServerConfig

	mu    sync.Mutex
	reign *reign // nil while another leads

	lines sources
}

// A reign is the time in which this JobManager leads.
type reign struct {
	term     uint64
	join     func(ctx context.Context, s *Session) error
	ctx      context.Context // ends with it
	sessions map[string]*Session
	wg       sync.WaitGroup // handlers and their goroutines; Add under the Server's mu while it is the reign
}

// NewServer returns a Server. Its methods are to be served by a
// cluster.Server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Lease <= 0 {
		cfg.Lease = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Group == nil {
		cfg.Group = func() string { return "" }
	}
	if cfg.Members == nil {
		cfg.Members = func() []string { return nil }
	}
	return &Server{cfg: cfg, lines: sources{have: map[string]*source{}}}
}

// Methods are what the Server answers.
func (s *Server) Methods() []cluster.Method {
	return []cluster.Method{
		sessionTalk.Serve(s.converse),
		leaderCall.Serve(func(context.Context, *struct{}) (*leadership, error) { l := s.leads(); return &l, nil }),
		confirmCall.Serve(s.confirm),
		linesTalk.Serve(s.takeLines),
	}
}

// Lead takes sessions until ctx ends, and hands each to join, which may take
// its time. When Lead returns, no goroutine of a session is left and nothing is
// sent any more; but Reports of sessions are not closed, because the
// TaskManagers are not lost: they go on to the next leader.
func (s *Server) Lead(ctx context.Context, term uint64, join func(ctx context.Context, tm *Session) error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	r := &reign{term: term, join: join, ctx: ctx, sessions: map[string]*Session{}}
	s.mu.Lock()
	invariant.Check(s.reign == nil, "a JobManager leads for term %d while it does for another", term)
	s.reign = r
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.reign = nil
	s.mu.Unlock()
	r.wg.Wait()
}

// leads is what this JobManager knows of who leads.
func (s *Server) leads() leadership {
	s.mu.Lock()
	r := s.reign
	s.mu.Unlock()
	l := leadership{Group: s.cfg.Group()}
	if r != nil {
		l.Leads, l.Term, l.Members = true, r.term, s.cfg.Members()
	} else if s.cfg.Leader != nil {
		if addr, term, ok := s.cfg.Leader(); ok {
			l.Addr, l.Term = addr, term
		}
	}
	return l
}

func (s *Server) notLeader() error {
	l := s.leads()
	return &cluster.Error{Kind: kindNotLeader, Detail: l.Addr, Text: "this JobManager does not lead"}
}

// converse is one connection of a session.
func (s *Server) converse(ctx context.Context, stream *cluster.Stream[down, up]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := check(ctx, first.Hello); err != nil {
		return err
	}
	ses, err := s.admit(first.Hello)
	if err != nil {
		return err
	}
	defer ses.reign.wg.Done()
	c, w, err := ses.attach(first.Ack)
	if err != nil {
		return err
	}
	defer ses.detach(c)
	if err := stream.Send(&down{Welcome: w}); err != nil {
		return err
	}
	// Both end when this handler has returned: nothing else ends a Send or Recv.
	ses.reign.wg.Go(func() { c.end(ses.read(c, stream)) })
	ses.reign.wg.Go(func() { c.end(ses.write(c, stream)) })
	select {
	case <-c.over:
		return c.err
	case <-ses.over:
		return ses.refusal()
	case <-ses.reign.ctx.Done():
		return s.notLeader()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxSlots bounds what a TaskManager may say that it has.
const maxSlots = 10_000

// check refuses one who is not who he says, or speaks otherwise.
func check(ctx context.Context, h *hello) error {
	refuse := func(format string, args ...any) error {
		return &cluster.Error{Kind: kindRefused, Text: fmt.Sprintf(format, args...)}
	}
	switch {
	case h == nil:
		return refuse("a session must begin with a hello")
	case h.Protocol != protocol:
		return refuse("TaskManager %q speaks version %d of the protocol and this JobManager version %d: run the same Trestle", h.Name, h.Protocol, protocol)
	case h.Name == "" || h.Incarnation == "":
		return refuse("a TaskManager must have a name")
	case h.Session == "" && (h.Slots < 1 || h.Slots > maxSlots):
		return refuse("TaskManager %q must have 1 to %d slots, not %d", h.Name, maxSlots, h.Slots)
	}
	if h.Inventory != nil {
		for _, r := range h.Inventory.Running {
			if r.Slot < -1 || r.Slot >= h.Slots {
				return refuse("TaskManager %q runs a task in slot %d of %d", h.Name, r.Slot, h.Slots)
			}
		}
	}
	if name, known := cluster.Verified(ctx); known && name != h.Name {
		return refuse("TaskManager %q has the certificate of %q", h.Name, name)
	}
	return nil
}

// admit finds the session of a hello, or begins one. A handler for it is
// counted in the reign's group.
func (s *Server) admit(h *hello) (*Session, error) {
	has, err := decodeInventory(h.Inventory)
	if err != nil {
		return nil, &cluster.Error{Kind: kindRefused, Text: err.Error()}
	}
	if own := s.cfg.Group(); h.Group != "" && h.Group != own {
		return nil, &cluster.Error{Kind: kindRefused, Text: fmt.Sprintf("TaskManager %q has worked for the group %.8s, and this JobManager is of the group %.8s: start the TaskManager again to have it work for another", h.Name, h.Group, own)}
	}
	s.mu.Lock()
	r := s.reign
	if r == nil || h.Term > r.term {
		s.mu.Unlock()
		return nil, s.notLeader()
	}
	defer s.mu.Unlock()
	old := r.sessions[h.Name]
	if h.Session != "" {
		if old == nil || old.id != h.Session || old.hello.Incarnation != h.Incarnation {
			return nil, &cluster.Error{Kind: kindOver, Text: "the session is over"}
		}
		r.wg.Add(1)
		return old, nil
	}
	if old != nil && old.hello.Incarnation != h.Incarnation && old.connected() {
		return nil, &cluster.Error{Kind: kindRefused, Text: fmt.Sprintf("another process is TaskManager %q", h.Name)}
	}
	ses := newSession(s, r, h, has)
	r.sessions[h.Name] = ses
	if old != nil {
		old.giveWay()
	}
	s.introduce(ses)
	r.wg.Add(1)
	r.wg.Go(ses.watch)
	r.wg.Go(ses.deliver)
	r.wg.Go(func() { r.hand(ses, old) })
	s.cfg.Log.Info("a TaskManager has joined", "name", h.Name, "slots", h.Slots, "data", h.DataAddr, "running", len(has.Running))
	return ses, nil
}

// hand gives a new session to the Dispatcher, after the one that it follows, if
// any. That one ends only then: else its TaskManager would be lost for a moment,
// with all that it runs and holds.
func (r *reign) hand(ses, old *Session) {
	defer close(ses.handed)
	if old != nil {
		select {
		case <-old.handed:
		case <-r.ctx.Done():
			return
		}
	}
	err := r.join(r.ctx, ses)
	if r.ctx.Err() != nil {
		return // it is not lost: it goes on to the next leader
	}
	if err != nil {
		ses.finish("was not taken: " + err.Error())
	}
	if old != nil {
		old.finish("has joined anew")
	}
}

// introduce tells a new TaskManager of the others, and them of it. The lock is
// held.
func (s *Server) introduce(ses *Session) {
	all := map[string]string{}
	for name, other := range ses.reign.sessions {
		all[name] = other.hello.DataAddr
		if other != ses {
			other.say(command{Peers: &peerChange{Set: map[string]string{ses.hello.Name: ses.hello.DataAddr}}})
		}
	}
	ses.say(command{Peers: &peerChange{Set: all}})
}

// unlist forgets a session that is over.
func (s *Server) unlist(ses *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sessions := ses.reign.sessions
	if sessions[ses.hello.Name] != ses {
		return // it has a successor
	}
	delete(sessions, ses.hello.Name)
	for _, other := range sessions {
		other.say(command{Peers: &peerChange{Gone: []string{ses.hello.Name}}})
	}
}

// A connection is one of those that a session has in turn.
type connection struct {
	epoch int // of the session's commands
	once  sync.Once
	over  chan struct{}
	err   error // why it is over
}

func (c *connection) end(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.over)
	})
}

var (
	errReplaced = errors.New("the TaskManager has connected again")
	errSilent   = errors.New("there was no word")
)

// newID makes a name that nobody else makes.
func newID() string { return rand.Text() }
