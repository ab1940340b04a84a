package raftmeta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// kill ends a node without a word to the others.
func (p *peer) kill(t testing.TB) {
	t.Helper()
	p.cancel()
	p.stream.closeConns()
	if err := p.Node.stop(); err != nil {
		t.Error(err)
	}
	<-p.done
	p.Node = nil
}

func soon(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A member whose directory is lost is no danger: it founds nothing, it doesn't
// vote before it has the log again, and then it is a member as before.
func TestLostDirectory(t *testing.T) {
	peers := grouped(t, 3, nil)
	appended(t, peers, accept("a"))
	agree(t, peers)
	id := peers[0].Group()
	for _, p := range peers { // the one that founded, too
		p.stop(t)
	}
	first, behind := peers[0], peers[1]
	if err := os.RemoveAll(first.dir); err != nil {
		t.Fatal(err)
	}
	first.start(t)
	behind.start(t)
	if err := first.Bootstrap(soon(t, 2*time.Second), list(peers)); !errors.Is(err, context.DeadlineExceeded) && first.Group() != id {
		t.Errorf("bootstrap beside a group: %v, group %q", err, first.Group())
	}
	if l, _, ok := behind.Leader(); ok {
		t.Errorf("%s leads by the vote of one without memory", l.ID)
	}
	peers[2].start(t)
	leaderOf(t, peers)
	agree(t, peers)
	if got := first.Group(); got != id {
		t.Errorf("group %q was %q", got, id)
	}
	peers[2].stop(t) // and it votes again
	appended(t, peers, accept("b"))
}

// Nodes of two groups refuse each other, and an address that is another node's
// is found.
func TestStrangers(t *testing.T) {
	ours, theirs := grouped(t, 1, nil), grouped(t, 1, nil)
	us, them := ours[0], theirs[0]
	err := us.AddMember(soon(t, 5*time.Second), Member{"jm7", them.addr, true})
	if err == nil || !strings.Contains(err.Error(), "not jm7") {
		t.Errorf("another's address: %v", err)
	}
	stranger := &peer{id: "jm2", dir: t.TempDir()}
	stranger.start(t)
	defer stranger.stop(t)
	found(t, []*peer{stranger})
	if err := us.AddMember(soon(t, 5*time.Second), Member{"jm2", stranger.addr, true}); err == nil || !strings.Contains(err.Error(), "it is of group") {
		t.Errorf("a member of another group: %v", err)
	}
	if m := us.Members(); len(m) != 1 {
		t.Errorf("members %v", m)
	}
	gone := listen(t, "127.0.0.1:0")
	gone.Close()
	begin := time.Now()
	if err := us.AddMember(soon(t, 300*time.Millisecond), Member{"jm3", gone.Addr().String(), true}); err == nil {
		t.Errorf("a member that isn't there was added after %v", time.Since(begin))
	}
	appended(t, ours, accept("still")) // the group of one goes on
	other := &peer{id: "jm8", dir: t.TempDir()}
	other.start(t)
	defer other.stop(t)
	if err := other.Bootstrap(soon(t, 300*time.Millisecond), []Member{{"jm8", other.addr, true}, {"jm1", us.addr, true}}); err == nil || other.Group() != "" {
		t.Errorf("founded with a member of another group: %v", err)
	}
	for _, wrong := range [][]Member{{}, {{"jm9", "h:1", true}}, {{"jm8", "h:1", true}}, {{"jm8", other.addr, true}, {"jm9", other.addr, true}}, {{"jm8", other.addr, true}, {"a b", "h:1", true}}} {
		if err := other.Bootstrap(soon(t, 300*time.Millisecond), wrong); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

func TestMembership(t *testing.T) {
	peers := grouped(t, 1, func(c *Config) { c.TrailingEntries = 1 })
	for i := range 10 {
		appended(t, peers, accept(fmt.Sprintf("j%d", i)))
	}
	if err := peers[0].Snapshot(); err != nil { // the others begin with a snapshot
		t.Fatal(err)
	}
	for i := 2; i <= 3; i++ {
		p := &peer{id: fmt.Sprintf("jm%d", i), dir: t.TempDir()}
		p.start(t)
		defer func() { p.stop(t) }()
		peers = append(peers, p)
		if err := leaderOf(t, peers).AddMember(soon(t, 20*time.Second), Member{p.id, p.addr, true}); err != nil {
			t.Fatal(err)
		}
	}
	appended(t, peers, accept("with three"))
	agree(t, peers)
	if err := peers[0].Transfer(t.Context(), "jm3"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return peers[2].leading() != nil })
	appended(t, peers, accept("led by another"))
	if err := peers[0].RemoveMember(t.Context(), "jm2"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("removed by a follower: %v", err)
	}
	if err := peers[2].RemoveMember(t.Context(), "jm3"); err != nil { // itself
		t.Fatal(err)
	}
	peers[2].stop(t)
	appended(t, peers[:2], accept("with two"))
	agree(t, peers[:2])
	if m := leaderOf(t, peers[:2]).Members(); len(m) != 2 {
		t.Errorf("members %v", m)
	}
}

// Three nodes under kills, restarts, snapshots and transfers: nothing that was
// acknowledged is lost or doubled, and all tell one story.
func TestCatalogsEqual(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	peers := grouped(t, 3, func(c *Config) {
		c.TrailingEntries = 4
		c.HeartbeatTimeout = 150 * time.Millisecond
	})
	acked := map[string]bool{}
	steps := 120
	if testing.Short() {
		steps = 40
	}
	for i := range steps {
		p := peers[r.IntN(3)]
		switch what := r.IntN(10); {
		case what == 0 && p.Node != nil && !slices.ContainsFunc(peers, func(p *peer) bool { return p.Node == nil }):
			p.kill(t)
		case what <= 2 && p.Node == nil:
			p.start(t)
		case what == 3 && p.Node != nil:
			_ = p.Snapshot() // not while leadership is handed on
		case what == 4:
			_ = leaderOf(t, peers).Transfer(t.Context(), p.id) // it may be down
		default:
			var batch []catalog.Record
			for k := range 1 + r.IntN(3) {
				batch = append(batch, random(r, fmt.Sprintf("%d.%d", i, k), acked))
			}
			if j := leaderOf(t, peers).leading(); j != nil && j.Append(t.Context(), batch...) == nil {
				for _, r := range batch {
					if a, ok := r.(*catalog.JobAccepted); ok {
						acked[string(a.Job)] = true
					}
				}
			}
		}
	}
	for _, p := range peers {
		if p.Node == nil {
			p.start(t)
		}
	}
	index, sha := agree(t, peers)
	_, s, err := peers[0].View()
	if err != nil {
		t.Fatal(err)
	}
	for id := range acked {
		if s.Job(catalog.JobID(id)) == nil {
			t.Errorf("job %s was acknowledged, and is lost", id)
		}
	}
	t.Logf("%d entries, %d jobs, %.12s", index, len(s.Jobs()), sha)
	for _, p := range peers { // and from the disk, they tell it again
		p.stop(t)
	}
	for _, p := range peers {
		p.start(t)
	}
	if _, again := agree(t, peers); again != sha {
		t.Errorf("after a restart %s, before %s", again, sha)
	}
}

// random is some record, which may fit or not.
func random(r *rand.Rand, id string, acked map[string]bool) catalog.Record {
	ids := make([]string, 0, len(acked))
	for a := range acked {
		ids = append(ids, a)
	}
	slices.Sort(ids)
	if len(ids) == 0 || r.IntN(4) == 0 {
		return work("j" + id)
	}
	job := catalog.JobID(ids[r.IntN(len(ids))])
	task := catalog.TaskID{Stage: "s1", Index: r.IntN(3), Attempt: uint32(r.IntN(3))}
	switch r.IntN(8) {
	case 2, 3:
		return &catalog.ParallelismChosen{Job: job, Region: "r1", Stages: []catalog.StageChoice{{Stage: "s1", Parallelism: 3}}}
	case 4:
		return &catalog.TasksReset{Job: job, Tasks: []catalog.TaskRange{{Stage: "s1", Lo: task.Index, Hi: 3}}, Failure: catalog.Failure{Kind: catalog.FailureLost, Task: task, Message: id}}
	case 0:
		return &catalog.StopRequested{Job: job, Mode: catalog.StopCancel}
	case 1:
		return &catalog.JobEnded{Job: job, State: catalog.Failed, Failure: &catalog.Failure{Kind: catalog.FailureUser, Message: id}}
	}
	return &catalog.TaskFinished{Job: job, Task: task, Ended: 1, Metrics: []byte(id)}
}

// work is a job that isn't done when it is accepted.
func work(id string) catalog.Record {
	r := accept(id).(*catalog.JobAccepted)
	r.Graph = &jobgraph.Graph{
		Stages:  []*jobgraph.Stage{{ID: "s1", Name: "Read", Root: jobgraph.RootImpulse}},
		Regions: []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}}},
	}
	return r
}

// A real process is killed in the midst of appends; what it said was appended
// is there, in order and without a gap.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	acked := -1
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestAppendForever$")
		child.Env = append(os.Environ(), "TRESTLE_RAFT_DIR="+dir)
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for want := acked + 20 + rand.IntN(60); lines.Scan(); {
			var n int
			if _, err := fmt.Sscanf(lines.Text(), "acked %d", &n); err != nil {
				t.Fatalf("round %d: the child says %q", round, lines.Text())
			}
			if acked = n; n >= want {
				break
			}
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond) // so that it dies anywhere
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it still said
			if _, err := fmt.Sscanf(lines.Text(), "acked %d", &acked); err != nil {
				break // a torn line
			}
		}
		_ = child.Wait()
	}
	p := &peer{id: "one", dir: dir}
	p.start(t)
	leaderOf(t, []*peer{p})
	_, s, err := p.View()
	if err != nil {
		t.Fatal(err)
	}
	for i := range acked + 1 {
		if s.Job(catalog.JobID(fmt.Sprintf("j%06d", i))) == nil {
			t.Errorf("job %d of %d was acknowledged, and is lost", i, acked)
		}
	}
	if n := len(s.Jobs()); n < acked+1 || n > acked+7 {
		t.Errorf("%d jobs after %d were acknowledged", n, acked+1)
	}
	t.Logf("%d acknowledged, %d there", acked+1, len(s.Jobs()))
	p.stop(t)
}

// TestAppendForever is the process that TestKilledProcess kills.
func TestAppendForever(t *testing.T) {
	dir := os.Getenv("TRESTLE_RAFT_DIR")
	if dir == "" {
		t.Skip("only in a process of its own")
	}
	p := &peer{id: "one", dir: dir, tune: func(c *Config) {
		c.SnapshotEntries, c.TrailingEntries, c.SnapshotInterval = 16, 8, 5*time.Millisecond
	}}
	p.start(t)
	found(t, []*peer{p})
	all := []*peer{p}
	leaderOf(t, all)
	_, s, err := p.View()
	if err != nil {
		t.Fatal(err)
	}
	for i := len(s.Jobs()); ; i++ {
		appended(t, all, accept(fmt.Sprintf("j%06d", i)))
		fmt.Printf("acked %d\n", i)
	}
}

// A node cut off from the others stops to lead, and its appends end.
func TestCutOff(t *testing.T) {
	peers := grouped(t, 3, nil)
	l := leaderOf(t, peers)
	j := l.leading()
	for _, p := range peers {
		if p != l {
			p.kill(t)
		}
	}
	begin := time.Now()
	if err := j.Append(t.Context(), accept("x")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("%v", err)
	}
	t.Logf("told after %v", time.Since(begin))
	await(t, func() bool { return l.leading() == nil })
	if err := j.Append(t.Context(), accept("x")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("%v", err)
	}
	if _, err := l.ReadIndex(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("%v", err)
	}
	if err := l.WaitApplied(soon(t, 50*time.Millisecond), 1<<40); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// What leads and fails ends the node's Run.
func TestLeadFails(t *testing.T) {
	p := &peer{id: "one", dir: t.TempDir()}
	p.start(t)
	found(t, []*peer{p})
	leaderOf(t, []*peer{p})
	p.cancel()
	<-p.done
	oops := errors.New("oops")
	if err := p.Run(t.Context(), func(context.Context, uint64, *Journal) error { return oops }); !errors.Is(err, oops) {
		t.Errorf("%v", err)
	}
	times := 0
	ctx, cancel := context.WithCancel(t.Context())
	if err := p.Run(ctx, func(context.Context, uint64, *Journal) error {
		if times++; times == 2 {
			cancel()
		}
		return fmt.Errorf("tried: %w", ErrNotLeader)
	}); err != nil || times != 2 {
		t.Errorf("%v, %d times", err, times)
	}
	if _, err := Open(Config{ID: "two", Dir: p.dir, Stream: listen(t, "127.0.0.1:0")}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	p.stop(t)
}

// TestGoldenNode opens a directory that version 1 wrote: a log, votes and a
// snapshot. It is never written again, or it would prove nothing.
func TestGoldenNode(t *testing.T) {
	golden := filepath.Join("testdata", "node.v1")
	if _, err := os.Stat(golden); errors.Is(err, os.ErrNotExist) && os.Getenv("TRESTLE_GOLDEN") == "write" {
		writeGolden(t, golden)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	p := &peer{id: "one", dir: dir}
	p.start(t)
	leaderOf(t, []*peer{p})
	_, s, err := p.View()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 40)
	want := fmt.Sprintf(`job a %q FAILED: user: oops
  r1 s1 undecided
job b %q CANCELLING
  r1 s1 undecided
job c %q RUNNING
  r1 s1 undecided
`, name, name, name)
	if s.String() != want || p.Status().Snapshot == 0 || p.Group() == "" {
		t.Errorf("%s\n%+v", s, p.Status())
	}
	p.stop(t)
}

func writeGolden(t *testing.T, golden string) {
	t.Helper()
	p := &peer{id: "one", dir: t.TempDir(), tune: func(c *Config) { c.TrailingEntries = 1 }}
	p.start(t)
	all := []*peer{p}
	found(t, all)
	appended(t, all, work("a"), work("b"))
	appended(t, all, &catalog.JobEnded{Job: "a", State: catalog.Failed, Failure: &catalog.Failure{Kind: catalog.FailureUser, Message: "oops"}})
	if err := p.Snapshot(); err != nil {
		t.Fatal(err)
	}
	appended(t, all, &catalog.StopRequested{Job: "b", Mode: catalog.StopCancel}, work("c"))
	p.stop(t)
	if err := os.CopyFS(golden, os.DirFS(p.dir)); err != nil {
		t.Fatal(err)
	}
	// The file's end was never used.
	db := filepath.Join(golden, "raft.db")
	data, err := os.ReadFile(db)
	if err == nil {
		err = os.WriteFile(db, data[:16*4096], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkNodeAppend(b *testing.B) {
	p := &peer{id: "one", dir: b.TempDir()}
	p.start(b)
	defer p.stop(b)
	found(b, []*peer{p})
	j := leaderOf(b, []*peer{p}).leading()
	r := &catalog.TaskFinished{Job: "j", Task: catalog.TaskID{Stage: "s1"}, Outputs: []catalog.Output{{Dataset: "d1", Sketch: catalog.SketchOf(make([]int64, 128))}}}
	for b.Loop() {
		if err := j.Append(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
