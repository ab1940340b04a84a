package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"trestle/raftmeta/catalog"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// A Config says how a node is set up. ID, Dir, Stream and Advertise are needed;
// of the others the zero value is good.
type Config struct {
	// ID names the node in its group for ever: letters, digits, '.', '_', '-'.
	ID string
	// Dir holds all that the node remembers. One process at a time has it.
	Dir string
	// Stream is the network; the node closes it.
	Stream Stream
	// Advertise is the address under which the other nodes reach Stream.
	Advertise string

	// HeartbeatTimeout is how long a follower hears nothing before it stands for
	// election, ElectionTimeout how long an election may take. Both are drawn
	// from once to twice this: 1 s each by default, so that a new leader is there
	// after one to four seconds.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	// LeaseTimeout is how long a leader that hears from no majority goes on:
	// three quarters of HeartbeatTimeout by default.
	LeaseTimeout time.Duration

	// SnapshotEntries is how many entries make a snapshot worth its while, and
	// TrailingEntries how many stay in the log behind one, for nodes that have
	// fallen behind: 4096 and 1024 by default.
	SnapshotEntries uint64
	TrailingEntries uint64
	// SnapshotInterval is how often that is looked at: 30 s by default.
	SnapshotInterval time.Duration

	Follower Follower
	Log      *slog.Logger
}

func (c Config) withDefaults() Config {
	orElse := func(d *time.Duration, other time.Duration) {
		if *d <= 0 {
			*d = other
		}
	}
	orElse(&c.HeartbeatTimeout, time.Second)
	orElse(&c.ElectionTimeout, c.HeartbeatTimeout)
	orElse(&c.LeaseTimeout, c.HeartbeatTimeout*3/4)
	orElse(&c.SnapshotInterval, 30*time.Second)
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 4096
	}
	if c.TrailingEntries == 0 {
		c.TrailingEntries = 1024
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With("node", c.ID)
	return c
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// A Node is one member of a group that keeps one log. Its methods may be
// called from any goroutine.
type Node struct {
	cfg      Config
	lock     *os.File
	store    *store
	snaps    *snapshots
	fold     *fold
	identity *identity
	stream   *greeted
	trans    *transport
	raft     *raft.Raft

	life    context.Context // ends with Close
	end     context.CancelFunc
	owned   sync.WaitGroup // goroutines of this node
	closing sync.Once
	closed  error // of Close

	appending sync.RWMutex // held while a batch is handed to Raft; one of several entries holds it alone, so that none comes between them
	appends   meter

	mu        sync.Mutex
	ready     uint64 // the term as whose leader this node has applied all that came before
	broken    error  // first damage found
	brokenC   chan struct{}
	snapIndex uint64 // of the newest snapshot; 0 when there is none
}

// Open takes the directory, which it creates if need be, reads and checks
// all that is in it, and takes part in its group if it is of one. Else it waits
// to be called by a leader, or for Bootstrap. The Follower may be called before
// Open returns.
func Open(cfg Config) (_ *Node, err error) {
	if !idPattern.MatchString(cfg.ID) {
		return nil, fmt.Errorf("open node: its id %q has other signs than letters, digits, '.', '_' and '-', or more than 64", cfg.ID)
	}
	n := &Node{cfg: cfg.withDefaults(), brokenC: make(chan struct{})}
	n.life, n.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			n.end()
			err = errors.Join(fmt.Errorf("open node %s: %w", cfg.ID, err), n.release())
		}
	}()
	if n.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	var newest *raft.SnapshotMeta
	if n.snaps, newest, err = openSnapshots(filepath.Join(cfg.Dir, "snapshots"), n.noteSnapshot); err != nil {
		return nil, err
	}
	if n.store, err = openStore(cfg.Dir, n.damage); err != nil {
		return nil, err
	}
	if err := n.fit(newest); err != nil {
		return nil, err
	}
	if n.identity, err = openIdentity(cfg.ID, n.store); err != nil {
		return nil, err
	}
	n.fold = newFold(n.cfg.Follower, n.cfg.Log, n.damage)
	return n, n.start()
}

func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another process has %s: %w", dir, err), lock.Close())
	}
	return lock, nil
}

// fit checks that log and snapshots are of one story.
func (n *Node) fit(newest *raft.SnapshotMeta) error {
	first, last := n.store.first.Load(), n.store.last.Load()
	if newest == nil {
		if first > 1 {
			return &DamagedError{n.snaps.dir, "its start", fmt.Errorf("there is no snapshot, and the log begins with entry %d", first)}
		}
		return nil
	}
	n.snapIndex = newest.Index
	switch {
	case last > 0 && last < newest.Index:
		// The process ended after it had taken a snapshot from the leader and
		// before it had given up its log, which lies behind that.
		return n.store.DeleteRange(first, last)
	case first > newest.Index+1:
		return &DamagedError{n.snaps.dir, "its newest snapshot", fmt.Errorf("it ends with entry %d, and the log begins with entry %d", newest.Index, first)}
	}
	return nil
}

// start begins to take part.
func (n *Node) start() error {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(n.cfg.ID)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = n.cfg.HeartbeatTimeout, n.cfg.ElectionTimeout, n.cfg.LeaseTimeout
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = n.cfg.SnapshotInterval, n.cfg.SnapshotEntries, n.cfg.TrailingEntries
	// What still stands in that buffer when Raft shuts down is never answered.
	// Appends that wait at the same time are stored together without it, too.
	conf.BatchApplyCh = false
	conf.ShutdownOnRemove = false // a removed node says so instead
	conf.NoLegacyTelemetry = true
	conf.Logger = newRaftLog(n.cfg.Log)
	n.stream = newGreeted(n.cfg.Stream, n.cfg.ID, n.identity, n.lastIndex, n.cfg.Log)
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: conf.Logger, Stream: &advertised{n.stream, n.cfg.Advertise}, MaxPool: 3,
		Timeout: max(2*n.cfg.ElectionTimeout, time.Second), MsgpackUseNewTimeFormat: true,
	})
	n.trans = newTransport(inner, n.empty)
	cache, err := raft.NewLogCache(512, n.store)
	if err == nil {
		n.raft, err = raft.NewRaft(conf, n.fold, cache, n.store, n.snaps, n.trans)
	}
	if err != nil {
		n.stream.closeConns()
		return errors.Join(err, inner.Close())
	}
	n.owned.Go(func() { n.trans.run(n.life) })
	if n.alone() {
		n.trans.electNow(n.life)
	}
	return nil
}

// empty reports whether the node has neither log nor snapshot.
func (n *Node) empty() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.store.last.Load() == 0 && n.snapIndex == 0
}

// lastIndex is the last entry that the node has.
func (n *Node) lastIndex() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(n.store.last.Load(), n.snapIndex)
}

// alone reports whether the node is the only one of its group.
func (n *Node) alone() bool {
	c := n.raft.GetConfiguration().Configuration()
	return len(c.Servers) == 1 && string(c.Servers[0].ID) == n.cfg.ID && c.Servers[0].Suffrage == raft.Voter
}

func (n *Node) noteSnapshot(index uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.snapIndex = max(n.snapIndex, index)
}

// damage notes that what was read isn't what was written. Run ends with it.
func (n *Node) damage(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		n.broken = err
		close(n.brokenC)
	}
}

func (n *Node) damaged() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.broken
}

// Close gives up the node: it hands leadership on if it has it and can, and
// leaves the group waiting for its return. Run ends, if it has not.
func (n *Node) Close() error {
	if n.life.Err() == nil && n.raft.State() == raft.Leader && len(n.Members()) > 1 && n.damaged() == nil {
		_ = n.raft.LeadershipTransfer().Error() // else the others elect a leader when they miss this one
	}
	return n.stop()
}

// stop ends everything, as it is.
func (n *Node) stop() error {
	n.closing.Do(func() {
		n.end()
		err := n.raft.Shutdown().Error() // closes the transport, too
		n.stream.closeConns()
		n.owned.Wait()
		n.closed = errors.Join(err, n.release())
	})
	return n.closed
}

// release gives up what Open took, as far as it came.
func (n *Node) release() error {
	var errs []error
	if n.store != nil {
		errs = append(errs, n.store.close())
	}
	if n.raft == nil && n.stream == nil && n.cfg.Stream != nil {
		errs = append(errs, n.cfg.Stream.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// Hash is that of the state and the index of the log's entry that it has come
// to. Nodes that have come to the same entry have the same hash.
func (n *Node) Hash() (index uint64, sha catalog.Hash) { return n.fold.hash() }

// View is a copy of the state, for the caller to own, and its index.
func (n *Node) View() (index uint64, _ *catalog.State, err error) { return n.fold.view() }

// Snapshot puts a snapshot in place of the log's older entries now. There may
// be nothing new to put there, which is no error.
func (n *Node) Snapshot() error {
	err := n.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}
