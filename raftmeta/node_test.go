package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func accept(id string) catalog.Record {
	return &catalog.JobAccepted{Job: catalog.JobID(id), Name: strings.Repeat("n", 40), Plan: "p", KeyGroups: 1, Graph: &jobgraph.Graph{}}
}

// tcp is a plain network on the loopback.
type tcp struct{ net.Listener }

func (tcp) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", addr, timeout)
}

func listen(t testing.TB, addr string) tcp {
	t.Helper()
	var l net.Listener
	await(t, func() bool { // the port of a node that was just closed
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return tcp{l}
}

// await returns when the condition holds.
func await(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// A watcher folds what a Follower is told, and checks how.
type watcher struct {
	mu    sync.Mutex
	index uint64
	state *catalog.State
	err   error
}

func (w *watcher) Apply(index uint64, records []catalog.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index <= w.index {
		w.err = fmt.Errorf("entry %d after %d", index, w.index)
	}
	w.index = index
	for _, r := range records {
		w.err = errors.Join(w.err, w.state.Apply(r))
	}
}

func (w *watcher) Restore(index uint64, state *catalog.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index, w.state = index, state
}

// A peer is a node of a test, and what runs on it.
type peer struct {
	*Node
	id, dir, addr string
	tune          func(*Config)
	watch         *watcher
	cancel        context.CancelFunc
	done          chan struct{}
	runErr        error

	mu      sync.Mutex
	journal *Journal // while it leads
	terms   []uint64
}

// start opens the node and runs it.
func (p *peer) start(t testing.TB) {
	t.Helper()
	if err := p.tryStart(t); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) tryStart(t testing.TB) error {
	t.Helper()
	if p.addr == "" {
		p.addr = "127.0.0.1:0"
	}
	l := listen(t, p.addr)
	p.addr = l.Addr().String()
	p.watch = &watcher{state: catalog.NewState()}
	cfg := Config{
		ID: p.id, Dir: p.dir, Stream: l, Advertise: p.addr, Follower: p.watch,
		HeartbeatTimeout: 300 * time.Millisecond,
	}
	if os.Getenv("TRESTLE_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if p.tune != nil {
		p.tune(&cfg)
	}
	n, err := Open(cfg)
	if err != nil {
		return err
	}
	p.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		p.runErr = n.Run(ctx, p.lead)
	}()
	return nil
}

func (p *peer) lead(ctx context.Context, term uint64, j *Journal) error {
	s := catalog.NewState()
	if err := j.Replay(ctx, s.Apply); err != nil {
		return err
	}
	p.mu.Lock()
	p.journal = j
	p.terms = append(p.terms, term)
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.journal = nil
	p.mu.Unlock()
	return nil
}

func (p *peer) leading() *Journal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.journal
}

func (p *peer) stop(t testing.TB) {
	t.Helper()
	if p.Node == nil {
		return
	}
	p.cancel()
	<-p.done
	if err := errors.Join(p.runErr, p.Node.Close(), p.watch.err); err != nil {
		t.Error(err)
	}
	p.Node = nil
}

// grouped starts that many nodes, founds a group and waits for its leader.
func grouped(t testing.TB, size int, tune func(*Config)) []*peer {
	t.Helper()
	var peers []*peer
	for i := range size {
		p := &peer{id: fmt.Sprintf("jm%d", i+1), dir: t.TempDir(), tune: tune}
		p.start(t)
		t.Cleanup(func() { p.stop(t) })
		peers = append(peers, p)
	}
	found(t, peers)
	leaderOf(t, peers)
	return peers
}

func list(peers []*peer) (members []Member) {
	for _, p := range peers {
		members = append(members, Member{p.id, p.addr, true})
	}
	return members
}

func found(t testing.TB, peers []*peer) {
	t.Helper()
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := p.Bootstrap(ctx, list(peers)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// leaderOf waits for a leader.
func leaderOf(t testing.TB, peers []*peer) (leader *peer) {
	t.Helper()
	await(t, func() bool {
		for _, p := range peers {
			if p.Node != nil && p.leading() != nil {
				leader = p
				return true
			}
		}
		return false
	})
	return leader
}

// appended appends through whoever leads, until it is acknowledged.
func appended(t testing.TB, peers []*peer, records ...catalog.Record) {
	t.Helper()
	await(t, func() bool {
		j := leaderOf(t, peers).leading()
		if j == nil {
			return false
		}
		err := j.Append(context.Background(), records...)
		if err != nil && !errors.Is(err, ErrNotLeader) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// agree waits until all have come to one place, and compares their states.
func agree(t testing.TB, peers []*peer) (index uint64, sha catalog.Hash) {
	t.Helper()
	await(t, func() bool {
		l := leaderOf(t, peers)
		read, err := l.ReadIndex(t.Context())
		if err != nil {
			return false
		}
		index, sha = l.Hash()
		if index < read {
			return false
		}
		for _, p := range peers {
			if p.Node == nil {
				continue
			}
			if err := p.WaitApplied(t.Context(), index); err != nil {
				t.Fatal(err)
			}
			i, s := p.Hash()
			if i != index {
				return false
			}
			p.watch.mu.Lock()
			told := p.watch.state.Hash()
			p.watch.mu.Unlock()
			if s != sha || told != sha {
				t.Fatalf("at %d: %s has %s, its follower %s, and %s has %s", index, p.id, s, told, l.id, sha)
			}
		}
		return true
	})
	return index, sha
}

// A founder that dies after it has made the group's id, and before it has
// written who is in the group, founds it at its next start.
func TestFoundersDeath(t *testing.T) {
	p := &peer{id: "one", dir: t.TempDir()}
	p.start(t)
	if _, err := p.identity.found(); err != nil {
		t.Fatal(err)
	}
	p.stop(t)
	p.start(t)
	defer p.stop(t)
	if p.Group() == "" || p.Founded() {
		t.Fatalf("group %q, founded %v", p.Group(), p.Founded())
	}
	found(t, []*peer{p})
	leaderOf(t, []*peer{p})
	appended(t, []*peer{p}, accept("a"))
	if !p.Founded() {
		t.Error("the group isn't founded")
	}
}

func TestGroupOfOne(t *testing.T) {
	p := &peer{id: "one", dir: t.TempDir()}
	p.start(t)
	begin := time.Now()
	found(t, []*peer{p})
	all := []*peer{p}
	leaderOf(t, all)
	t.Logf("leads %v after it was founded", time.Since(begin))
	appended(t, all, accept("a"), accept("b"))
	_, sha := agree(t, all)
	before := p.Group()
	p.stop(t)
	begin = time.Now()
	p.start(t)
	opened := time.Since(begin)
	leaderOf(t, all)
	t.Logf("opened in %v, leads %v after that", opened, time.Since(begin)-opened)
	found(t, all)
	if _, again := agree(t, all); again != sha || p.Group() != before {
		t.Errorf("%s of group %s was %s of group %s", again, p.Group(), sha, before)
	}
	s := p.Status()
	if !s.Leads || s.State != "Leader" || s.Group != before || s.Syncs == 0 {
		t.Errorf("%+v", s)
	}
	p.stop(t)
}

func TestThree(t *testing.T) {
	peers := grouped(t, 3, nil)
	for i := range 20 {
		appended(t, peers, accept(fmt.Sprintf("j%d", i)))
	}
	agree(t, peers)
	l := leaderOf(t, peers)
	begin := time.Now()
	l.stop(t)
	leaderOf(t, peers)
	t.Logf("the next leads after %v", time.Since(begin))
	appended(t, peers, accept("after"))
	l.start(t)
	if _, sha := agree(t, peers); sha == "" {
		t.Error("no hash")
	}
	for _, p := range peers {
		if _, s, err := p.View(); err != nil || len(s.Jobs()) != 21 {
			t.Errorf("%s has %d jobs, %v", p.id, len(s.Jobs()), err)
		}
	}
}

func slogDiscard() *slog.Logger { return slog.New(slog.DiscardHandler) }
