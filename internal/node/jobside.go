package node

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"trestle/internal/blobstore"
	"trestle/internal/cluster"
	"trestle/internal/replica"
	"trestle/jobservice"
	"trestle/jobservice/artifact"
	"trestle/raftmeta"
	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/runner/remote"
	"trestle/runner/schedule"

	"google.golang.org/grpc"
)

func (n *Node) openStores() (err error) {
	if n.blobs, err = blobstore.Open(n.path("blobs")); err != nil {
		return err
	}
	if n.cfg.BlobStore != "" {
		if n.blobs, err = n.bucketBlobs(n.cfg.BlobStore); err != nil {
			return err
		}
	}
	n.artifacts, err = artifact.New(n.path("artifacts"), artifact.Options{MaxFileBytes: int64(n.cfg.MaxArtifactSize)})
	if err != nil {
		return err
	}
	n.messages, err = joblog.New(n.path("messages"), joblog.Options{MaxBytes: int64(n.cfg.MessageLogSize)})
	if err != nil {
		return err
	}
	n.mail = newMailbox(n.messages, n.path("told"), n.log)
	n.board = runner.NewBoard(n.mail)
	return nil
}

// joinJobSide makes what a JobManager has.
func (n *Node) joinJobSide() error {
	n.caretaker = newCaretaker(n)
	n.board.OnAccepted(n.caretaker.accepted)
	if err := n.openLog(); err != nil {
		return err
	}
	n.lead = &lead{board: n.board, group: raftGroup{n.raft}, peers: n.peers}
	n.lead.take(nil)
	n.jobs = &jobs{cfg: n.cfg, lead: n.lead, board: n.board, blobs: n.blobs, side: n.side, files: n.artifacts.Names, log: n.log}
	opts := jobservice.Options{PreparedTTL: n.cfg.PreparedTTL, Log: n.log}
	if n.cfg.Role != Embedded {
		opts.Name, opts.Holder = n.name(), n.holder
		n.contact = newContact(n.inTouch)
		n.jobs.contact = n.contact
	}
	n.jobService = jobservice.New(n.jobs, n.messages, n.artifacts, opts)
	if n.cfg.Role == Embedded {
		return nil
	}
	return n.joinGroup()
}

// holder is the way to the jobs that another JobManager has prepared.
func (n *Node) holder(name string) (grpc.ClientConnInterface, error) {
	for _, m := range n.raft.Members() {
		if m.ID == name {
			return n.peers.ToJobManager(m.Addr).GRPC(), nil
		}
	}
	return nil, errors.New("it is not of this group")
}

// inTouch tells whether this JobManager hears of a leader, and whether the group
// counts it among its members, as far as it knows.
func (n *Node) inTouch() (leader, member bool) {
	_, _, leader = n.raft.Leader()
	all := n.raft.Members()
	member = len(all) == 0 || slices.ContainsFunc(all, func(m raftmeta.Member) bool { return m.ID == n.name() })
	return leader, member
}

// openLog opens the log of decisions.
func (n *Node) openLog() (err error) {
	cfg := raftmeta.Config{
		ID: n.name(), Dir: n.path("journal"), Follower: n.board, Log: n.log,
		SnapshotEntries: uint64(n.cfg.SnapshotEntries), TrailingEntries: uint64(n.cfg.SnapshotEntries/4 + 1),
		// Who wants few entries wants to be asked often whether there are more.
		SnapshotInterval: min(max(time.Duration(n.cfg.SnapshotEntries)*10*time.Millisecond, time.Second), 30*time.Second),
	}
	if n.cfg.Role == Embedded {
		// A group of one for ever: there is nobody to talk to.
		cfg.Stream, cfg.Advertise = newNoStream(), "127.0.0.1:0"
	} else {
		if cfg.Advertise, err = advertised(n.cfg, n.ports.cluster); err != nil {
			return err
		}
		streams := n.security.Streams(n.ports.cluster.raft, "trestle-raft")
		streams.Greeting = raftGreeting
		cfg.Stream = streams
	}
	n.members = []raftmeta.Member{{ID: cfg.ID, Addr: cfg.Advertise, Voter: true}}
	if n.cfg.Members != "" {
		if n.members, err = parseMembers(n.cfg.Members); err != nil {
			return err
		}
	}
	n.raft, err = raftmeta.Open(cfg)
	return err
}

// keepLog takes part in the group, which it founds where that is to be done,
// and leads it when it is this process's turn.
func (n *Node) keepLog(ctx context.Context) error {
	if !n.cfg.Join && !n.raft.Founded() {
		if err := n.raft.Bootstrap(ctx, n.members); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	return n.raft.Run(ctx, n.decide)
}

// name is the process's own.
func (n *Node) name() string {
	switch {
	case n.cfg.Role == Embedded:
		return embeddedName
	case n.cfg.Name != "":
		return n.cfg.Name
	}
	host, err := os.Hostname()
	if err != nil {
		return embeddedName
	}
	return host
}

// joinGroup makes what a JobManager has for others.
func (n *Node) joinGroup() error {
	n.sessions = remote.NewServer(remote.ServerConfig{
		Leader: func() (string, uint64, bool) {
			m, term, ok := n.raft.Leader()
			return m.Addr, term, ok
		},
		Confirm: func(ctx context.Context) error {
			_, err := n.raft.ReadIndex(ctx)
			return err
		},
		Group: n.raft.Group,
		Members: func() []string {
			var addrs []string
			for _, m := range n.raft.Members() {
				addrs = append(addrs, m.Addr)
			}
			return addrs
		},
		Lease: n.cfg.Lease,
		Lines: n.takeLines,
		Log:   n.log,
	})
	n.server = cluster.NewServer(n.security, n.wire())
	deciders := []cluster.Role{cluster.JobManager}
	n.server.HandleFor(deciders, n.lead.methods()...)
	n.server.HandleFor([]cluster.Role{cluster.TaskManager}, n.sessions.Methods()...)
	n.server.HandleFor([]cluster.Role{cluster.Operator, cluster.JobManager}, n.memberMethods()...)
	shelves := replica.ShelvesOf(n.blobs, n.artifacts)
	n.server.HandleFor(deciders, replica.KeepMethods(shelves)...)
	n.server.HandleFor([]cluster.Role{cluster.JobManager, cluster.TaskManager}, replica.GiveMethods(shelves)...)
	n.jobService.RegisterHeld(n.server.For(deciders...))
	n.replicator = replica.New(shelves, n.peers, n.others)
	n.jobs.share, n.jobs.fetch = n.share, n.fetchBlobs
	return nil
}

// others are the other JobManagers, the leader first.
func (n *Node) others() []replica.Member {
	leader, _, _ := n.raft.Leader()
	var all []replica.Member
	for _, m := range n.raft.Members() {
		switch {
		case m.ID == n.name():
		case m.ID == leader.ID:
			all = append([]replica.Member{{Name: m.ID, Addr: m.Addr}}, all...)
		default:
			all = append(all, replica.Member{Name: m.ID, Addr: m.Addr})
		}
	}
	return all
}

// share copies what a job needs to the other JobManagers: a majority has it
// before the job is accepted.
func (n *Node) share(ctx context.Context, s *jobservice.Submission, blobs []string) error {
	items := replica.Items(replica.Artifact, n.artifacts.Names(s.ID)...)
	if n.cfg.BlobStore == "" {
		items = append(items, replica.Items(replica.Blob, blobs...)...)
	}
	return n.replicator.Copy(ctx, s.ID, items...)
}

// policy is how jobs are scheduled.
func (n *Node) policy() schedule.Policy {
	return schedule.Policy{
		TargetBytes: int64(n.cfg.TargetTaskSize),
		Restart:     serverRestart(n.cfg),
		HistoryJobs: n.cfg.HistoryJobs,
	}
}

// decide runs jobs as long as this process leads.
func (n *Node) decide(ctx context.Context, term uint64, journal *raftmeta.Journal) error {
	cfg := runner.Config{Journal: journal, Board: n.board, Policy: n.policy(), Reconcile: n.cfg.Reconcile, Log: n.log}
	cfg.Sources = sources{n.blobs, n.jobs.fetch}
	if n.side != nil {
		cfg.TaskManagers = []runner.TaskManager{n.side.TaskManager}
	}
	d := runner.New(cfg)
	own, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(own) }()
	select {
	case <-d.Ready():
	case err := <-ended:
		return n.retired(ctx, err)
	}
	n.log.Info("this JobManager leads", "term", term)
	n.lead.take(d)
	defer n.lead.take(nil)
	n.ledOnce.Do(func() { close(n.led) })
	var reign sync.WaitGroup
	defer reign.Wait()
	defer stop()
	if n.sessions != nil {
		reign.Go(func() {
			n.sessions.Lead(own, term, func(ctx context.Context, tm *remote.Session) error { return d.Join(ctx, tm) })
		})
	}
	return n.retired(ctx, <-ended)
}

// takeLines keeps what workers of a TaskManager have to say.
func (n *Node) takeLines(job, source string, seq uint64, entries []joblog.Entry) error {
	for i := range entries {
		entries[i].Source, entries[i].Seq = source, seq
	}
	return n.messages.Append(job, entries...)
}

// retired tells a lost office from a failure. Raft may say that it is lost
// before ctx does.
func (n *Node) retired(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, raftmeta.ErrNotLeader):
		return raftmeta.ErrNotLeader
	}
	return err
}

// jobParts are what runs in a JobManager.
func (n *Node) jobParts() []part {
	var parts []part
	if n.server != nil {
		parts = append(parts,
			part{name: "cluster port", run: n.ports.cluster.run},
			part{name: "cluster calls", run: func(ctx context.Context) error { return n.server.Serve(ctx, n.ports.cluster.rest) }},
		)
	}
	decisions := part{name: "log of decisions", run: n.keepLog}
	if n.cfg.Role == Embedded {
		decisions.ready = n.led // there is nobody else to wait for
	}
	if n.contact != nil {
		parts = append(parts, part{name: "contact", run: n.contact.run})
	}
	return append(parts, decisions,
		part{name: "caretaker", run: n.caretaker.run},
		part{name: "job service", run: n.serveJobs},
		part{name: "prepared jobs", run: n.jobService.Run},
	)
}

// raftGroup is the group as a lead sees it.
type raftGroup struct{ node *raftmeta.Node }

func (g raftGroup) Leader() (string, bool) {
	m, _, ok := g.node.Leader()
	return m.Addr, ok
}

func (g raftGroup) ReadIndex(ctx context.Context) (uint64, error) { return g.node.ReadIndex(ctx) }
func (g raftGroup) WaitApplied(ctx context.Context, index uint64) error {
	return g.node.WaitApplied(ctx, index)
}

// noStream is the network of a log that has it to itself.
type noStream struct {
	closed chan struct{}
	once   sync.Once
}

func newNoStream() *noStream { return &noStream{closed: make(chan struct{})} }

func (s *noStream) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

func (s *noStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *noStream) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (s *noStream) Dial(string, time.Duration) (net.Conn, error) {
	return nil, errors.New("an embedded Trestle has no network")
}
