package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// Local is the TaskManager of this process; *task.TaskManager is one. See
// package runner's TaskManager for the contract. The Client alone starts its
// tasks and reads its reports.
type Local interface {
	Name() string
	Slots() int
	Inventory(ctx context.Context) (task.Inventory, error)
	Start(column []task.Spec)
	Cancel(ids []task.ID)
	DrainJob(job string)
	Release(job string, dataset jobgraph.DatasetID, partitions []task.Partition)
	ReleaseJob(job string)
	Reports() <-chan task.Report
}

// ClientConfig is what a Client works with.
type ClientConfig struct {
	Local       Local
	Connections *cluster.Peers
	// JobManagers are some of them, by HOST:PORT of their cluster.Servers. Those
	// that join the group later are told of by the others.
	JobManagers []string
	DataAddr    string // where others read this TaskManager's partitions
	Memory      int64  // that the process may use, for show
	Version     string // of Trestle, for show
	Lines       *Lines // sends log lines; may be nil
	// LookupWait bounds how long Lookup waits for a TaskManager that nobody has
	// told of. Default: 10 s.
	LookupWait time.Duration
	Log        *slog.Logger // may be nil
}

// A Client keeps a TaskManager in a session with the JobManager that leads.
type Client struct {
	cfg         ClientConfig
	incarnation string
	// spare holds a token when reports were acknowledged. Capacity 1.
	spare chan struct{}

	mu       sync.Mutex
	group    string   // that was worked for; once it is set, no other is
	term     uint64   // the highest heard of in the group; never falls
	told     []string // addresses of JobManagers
	tracker  *tracker
	progress map[task.ID]*task.Progress // what is to be told next of running tasks
	link     *link                      // nil without a session
	addrs    map[string]string          // of other TaskManagers, by name
	draining bool
	leaving  bool
	left     bool          // the leader has been told
	changed  chan struct{} // closed and renewed when any of these change that someone waits for
}

// A link is the TaskManager's end of one session.
type link struct {
	addr    string // of the JobManager
	session string // "" before the first welcome
	term    uint64
	lease   time.Duration
	out     *outbox // reports
	in      inbox
	lists   *borrower
	// mayLeave is the leader's word that nobody needs the TaskManager any more.
	// Guarded by the Client's mu.
	mayLeave bool
}

// NewClient returns a Client; its goroutines belong to Run.
func NewClient(cfg ClientConfig) *Client {
	if cfg.LookupWait <= 0 {
		cfg.LookupWait = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		cfg: cfg, incarnation: newID(), spare: make(chan struct{}, 1),
		tracker: newTracker(), progress: map[task.ID]*task.Progress{},
		addrs: map[string]string{}, changed: make(chan struct{}),
	}
}

// Run finds the leader and keeps in touch with it, until ctx ends. It ends with
// a *RestoredError when the JobManagers have gone back in time: then there is no
// going on for this process.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.pump(ctx) })
	wg.Go(func() { c.survey(ctx) })
	if c.cfg.Lines != nil {
		wg.Go(func() { c.sendLines(ctx) })
	}
	return c.meet(ctx)
}

const (
	shortPause = 50 * time.Millisecond
	longPause  = time.Second
	// meetPause is the longest pause between two tries to find the leader: jobs
	// may wait for it.
	meetPause = 250 * time.Millisecond
	// helloTime is how long a JobManager may take to answer a hello.
	helloTime = 5 * time.Second
)

// meet has one session after another.
func (c *Client) meet(ctx context.Context) error {
	pause, said := shortPause, ""
	for ctx.Err() == nil && !c.hasLeft() {
		addr, _, err := c.leader(ctx)
		if restored := (*RestoredError)(nil); errors.As(err, &restored) {
			return restored
		}
		if err == nil {
			var met bool
			if met, err = c.converse(ctx, addr); met {
				pause, said = shortPause, ""
			}
		}
		if ctx.Err() == nil && !c.hasLeft() && err != nil && err.Error() != said {
			said = err.Error()
			c.cfg.Log.Warn("no connection to the JobManager that leads; trying again", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, meetPause)
	}
	return nil
}

// hasLeft reports whether there is no session any more and is to be none.
func (c *Client) hasLeft() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leaving || c.link != nil {
		return false
	}
	c.left = true
	c.notify()
	return true
}

// converse connects to a JobManager, and stays connected if it can. met tells
// that it could.
func (c *Client) converse(ctx context.Context, addr string) (met bool, err error) {
	h, l, err := c.hello(ctx, addr)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(helloTime, func() { cancel(errSilent) })
	defer silence.Stop()
	met, err = c.connected(ctx, cancel, silence, h, l)
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) || errors.Is(cause, errFollowed) {
		err = &cluster.UnreachableError{Peer: addr, Reason: cause.Error()}
	}
	if l.session == "" || final(err) {
		c.unlink(l) // next time it begins anew, with what there is by then
	}
	return met, err
}

// final reports whether an error ends the session, and not only a connection
// of it.
func final(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, errRules) {
		return true
	}
	e := (*cluster.Error)(nil)
	return errors.As(err, &e) && e.Kind != ""
}

// errRules is the other end's doing what it must not.
var errRules = errors.New("the JobManager broke the rules")

// connected is one connection, from hello to end.
func (c *Client) connected(ctx context.Context, cancel context.CancelCauseFunc, silence *time.Timer, h *hello, l *link) (met bool, err error) {
	stream, err := sessionTalk.Open(ctx, c.cfg.Connections.ToJobManager(l.addr))
	if err != nil {
		return false, err
	}
	defer stream.Close()
	if err := stream.Send(&up{Hello: h, Ack: l.in.got.Load()}); err != nil && !errors.Is(err, cluster.ErrEnded) {
		return false, err
	}
	m, err := stream.Recv()
	if err != nil {
		return false, err
	}
	epoch, err := c.welcomed(l, m.Welcome)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRules, err)
	}
	silence.Reset(patienceOf(l.lease))
	heard := newWord()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stream.Close() // ends a Send
	wg.Go(func() {
		if c.vigil(ctx, l, heard) {
			cancel(errFollowed)
		}
	})
	wg.Go(func() {
		if err := c.write(ctx, stream, l, epoch); err != nil {
			cancel(err)
		}
	})
	defer cancel(nil)
	for {
		m, err := stream.Recv()
		if err != nil {
			return true, err
		}
		silence.Reset(patienceOf(l.lease))
		heard.now()
		if err := c.take(l, m); err != nil {
			return true, fmt.Errorf("%w: %w", errRules, err)
		}
	}
}

// errFollowed ends a connection to a JobManager that leads no more.
var errFollowed = errors.New("another JobManager leads")

// vigil asks the other JobManagers as soon as the one that leads is quiet: its
// successor, which may be there long before the silence counts as one, waits
// for us. It returns true when there is a successor.
func (c *Client) vigil(ctx context.Context, l *link, heard *word) bool {
	tick := time.NewTicker(beatOf(l.lease) / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if heard.ago() < beatOf(l.lease)*3/2 {
			continue
		}
		if _, term, err := c.leader(ctx); err == nil && term > l.term {
			return true
		}
	}
}

// A word is when something was last heard.
type word struct {
	begin time.Time
	last  atomic.Int64 // nanoseconds after begin
}

func newWord() *word               { return &word{begin: time.Now()} }
func (w *word) now()               { w.last.Store(int64(time.Since(w.begin))) }
func (w *word) ago() time.Duration { return time.Since(w.begin) - time.Duration(w.last.Load()) }

// hello makes the first message: for the session that there is, or a new one.
func (c *Client) hello(ctx context.Context, addr string) (*hello, *link, error) {
	h := &hello{Protocol: protocol, Name: c.cfg.Local.Name(), Incarnation: c.incarnation}
	c.mu.Lock()
	if l := c.link; l != nil && l.addr == addr {
		defer c.mu.Unlock()
		h.Group, h.Term, h.Session = c.group, c.term, l.session
		return h, l, nil
	}
	c.link = nil // of another JobManager, which leads no more
	c.mu.Unlock()
	has, err := c.cfg.Local.Inventory(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("take an inventory: %w", err)
	}
	h.Slots, h.Memory, h.DataAddr, h.Version = c.cfg.Local.Slots(), c.cfg.Memory, c.cfg.DataAddr, c.cfg.Version
	h.ListEntries = listEntries
	c.mu.Lock()
	defer c.mu.Unlock()
	h.Group, h.Term, h.Draining = c.group, c.term, c.draining
	// From here on all that happens goes into the new session's outbox. What
	// ended before the inventory and hasn't come out of Reports yet is open for
	// the tracker, so nothing falls between.
	has.Running = c.tracker.running(has.Running)
	h.Inventory = encodeInventory(has)
	l := &link{addr: addr, out: newOutbox(c.spare), lists: newBorrower()}
	for _, r := range c.tracker.ends() {
		l.out.add(r)
	}
	c.link = l
	return h, l, nil
}

func (c *Client) unlink(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
	}
	c.notify()
	poke(c.spare)
}

// welcomed checks a welcome and takes the session up.
func (c *Client) welcomed(l *link, w *welcome) (epoch int, err error) {
	if w == nil || w.Session == "" || w.Lease <= 0 {
		return 0, fmt.Errorf("the JobManager at %s did not answer as one", l.addr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.doubt(l.addr, w.Group, w.Term); err != nil {
		return 0, err
	}
	if l.session != "" && (w.Session != l.session || w.Term != l.term) {
		return 0, fmt.Errorf("the JobManager at %s took up another session", l.addr)
	}
	if l.session == "" {
		c.cfg.Log.Info("joined the JobManager that leads", "addr", l.addr, "term", w.Term)
	}
	c.group, c.term = w.Group, w.Term
	c.hear(w.Members)
	l.session, l.term, l.lease = w.Session, w.Term, w.Lease
	c.notify()
	return l.out.rewind(w.Got)
}

// notify wakes those who wait for a change. The lock is held.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// write sends reports, acknowledgements and signs of life, until ctx ends.
func (c *Client) write(ctx context.Context, stream *cluster.Stream[up, down], l *link, epoch int) error {
	beat := time.NewTicker(beatOf(l.lease))
	defer beat.Stop()
	told := uint64(0)
	due := false
	for {
		m := &up{Ack: l.in.got.Load()}
		var current bool
		if m.First, m.Reports, current = l.out.take(epoch); !current {
			return errReplaced
		}
		if len(m.Reports) == 0 { // what ended comes before how others get on
			m.Progress, m.Leave = c.rest()
		}
		if len(m.Reports) > 0 || len(m.Progress) > 0 || m.Leave || m.Ack > told || due {
			if err := stream.Send(m); err != nil {
				return err
			}
			if m.Leave {
				return stream.CloseSend()
			}
			told, due = m.Ack, false
			continue
		}
		select {
		case <-l.out.changed:
		case <-beat.C:
			due = true
		case <-ctx.Done():
			return nil
		}
	}
}

// rest is what there is to tell besides reports.
func (c *Client) rest() (progress []*task.Progress, leave bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes := 0
	for id, p := range c.progress {
		if bytes += len(p.Metrics); bytes > maxBatch && len(progress) > 0 {
			break
		}
		progress = append(progress, p)
		delete(c.progress, id)
	}
	return progress, c.leaving && len(c.progress) == 0
}
