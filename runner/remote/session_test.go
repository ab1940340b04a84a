package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/internal/cluster"
	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/runner/task"

	"github.com/google/go-cmp/cmp"
)

// Both ends are what they stand for.
var (
	_ runner.Leaver = (*Session)(nil)
	_ Local         = (*task.TaskManager)(nil)
)

// What a Dispatcher says arrives at the TaskManager as it was said, and what
// that reports comes back.
func TestSession(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 7)
	local := newRecorder("tm1")
	local.has = task.Inventory{
		Running: []task.RunningTask{{ID: id(9), Slot: 3}},
		Held:    []task.HeldPartitions{{Job: "j", Dataset: "d1", Partitions: []task.Partition{{Index: 3, Attempt: 2}, {Index: 1, Attempt: 1}}}},
		Queues:  []task.HeldQueue{{Job: "j", Stage: "s2", Generation: 4}},
	}
	run(t, local, ClientConfig{DataAddr: "10.0.0.1:1", Memory: 5, Version: "v1"}, jm.addr)
	s := jm.join(t)
	if s.Name() != "tm1" || s.Slots() != 4 || s.Memory() != 5 || s.DataAddr() != "10.0.0.1:1" || s.Version() != "v1" {
		t.Errorf("%+v", s.hello)
	}
	if has, err := s.Inventory(t.Context()); err != nil || !cmp.Equal(has, local.has) {
		t.Error(err, cmp.Diff(local.has, has))
	}
	parts := make([]task.Partition, 100)
	at := make([]string, 100)
	for i := range parts {
		parts[i], at[i] = task.Partition{Index: i * 3, Attempt: uint32(i%3 + 1)}, fmt.Sprint("tm", i/40)
	}
	full := task.Spec{
		ID: id(1), Plan: "sha", Parallelism: 7, Slot: 2, Queue: 3, QueueAt: "tm0",
		Inputs: []task.Input{
			{Dataset: "d1", Partitions: parts, At: at, Lo: 3, Hi: 5},
			{Dataset: "d2", Partitions: parts[10:60], At: at[10:60], Lo: 3, Hi: 5},
			{Dataset: "d3", Partitions: parts[:2], At: at[38:40]},
			{Dataset: "d4", Partitions: []task.Partition{}},
			{Dataset: "d5"},
		},
		SideInputs: []task.Input{{Dataset: "d6", Partitions: parts}},
		Outputs:    []task.Output{{Dataset: "d7", Subpartitions: 64}},
	}
	s.Start([]task.Spec{full, spec1(2, 2)})
	s.Cancel([]task.ID{id(1), id(2)})
	s.DrainJob("j")
	s.Release("j", "d1", parts[:3])
	s.ReleaseJob("j")
	for _, want := range []any{[]task.Spec{full, spec1(2, 2)}, []task.ID{id(1), id(2)}, "drain j", released{"j", "d1", parts[:3]}, "j"} {
		if got := receive(t, local.told); !cmp.Equal(got, want, cmp.AllowUnexported(released{})) {
			t.Error(cmp.Diff(want, got, cmp.AllowUnexported(released{})))
		}
	}
	one := id(1)
	for _, r := range []task.Report{
		{Started: &one},
		{Progress: &task.Progress{ID: id(1), InBytes: 7, Metrics: []byte("m")}},
		{Finished: &task.Finished{ID: id(1), Outputs: []task.OutputSize{{Dataset: "d7", Bytes: 3, BySub: []int64{1, 2}, Durable: "disk"}}, Metrics: []byte{0, 1}}},
		{Failed: &task.Failed{ID: id(2), Cause: task.CausePartition, Message: "gone", Lost: []task.LostPartition{{Dataset: "d1", Partition: parts[4]}}}},
	} {
		local.reports <- r
		if got := receive(t, s.Reports()); !cmp.Equal(got, r) {
			t.Error(cmp.Diff(r, got))
		}
	}
}

// What is too much to tell is cut or left out; what can't be told fails.
func TestBounds(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	local := newRecorder("tm1")
	run(t, local, ClientConfig{}, jm.addr)
	s := jm.join(t)
	s.Start([]task.Spec{spec1(1, 0), spec1(2, 0), spec1(3, 0)})
	receive(t, local.told)
	local.reports <- task.Report{Progress: &task.Progress{ID: id(1), InBytes: 7, Metrics: make([]byte, 1<<20)}}
	if got := receive(t, s.Reports()); got.Progress.InBytes != 7 || got.Progress.Metrics != nil {
		t.Errorf("progress %d, %d bytes of metrics", got.Progress.InBytes, len(got.Progress.Metrics))
	}
	local.reports <- task.Report{Finished: &task.Finished{ID: id(1), Metrics: make([]byte, 1<<20)}}
	if got := receive(t, s.Reports()); got.Finished.Metrics != nil {
		t.Errorf("%d bytes of metrics", len(got.Finished.Metrics))
	}
	local.reports <- task.Report{Failed: &task.Failed{ID: id(2), Message: strings.Repeat("é", 1<<20) + "!"}}
	if got := receive(t, s.Reports()).Failed.Message; len(got) > maxMessage+20 || !strings.HasSuffix(got, "é!") {
		t.Errorf("a message of %d bytes", len(got))
	}
	local.reports <- task.Report{Finished: &task.Finished{ID: id(3), Outputs: []task.OutputSize{{BySub: make([]int64, maxItem)}}}}
	if got := receive(t, s.Reports()); got.Failed == nil || got.Failed.ID != id(3) || got.Failed.Cause != task.CauseRunner {
		t.Errorf("%+v", got)
	}
	huge := spec1(4, 0)
	huge.Plan = strings.Repeat("x", maxItem)
	s.Start([]task.Spec{huge})
	if got := receive(t, s.Reports()); got.Failed == nil || got.Failed.ID != id(4) {
		t.Errorf("%+v", got)
	}
}

// A new leader is told again what the old one may not have written down, until
// the slot has been given to others.
func TestToldAgain(t *testing.T) {
	first, second := newJobManager(t, ServerConfig{}), newJobManager(t, ServerConfig{})
	stop := first.lead(t, 1)
	local := newRecorder("tm1")
	run(t, local, ClientConfig{}, first.addr, second.addr)
	s := first.join(t)
	s.Start([]task.Spec{spec1(1, 0)})
	s.Start([]task.Spec{spec1(2, 1)})
	s.Start([]task.Spec{spec1(3, 2)})
	for range 3 {
		receive(t, local.told)
	}
	for i := range 2 {
		local.reports <- task.Report{Finished: &task.Finished{ID: id(i + 1)}}
		receive(t, s.Reports())
	}
	s.Start([]task.Spec{spec1(4, 0)}) // slot 0 is free: task 1 is written down
	receive(t, local.told)
	stop()
	second.lead(t, 2)
	s = second.join(t)
	has, _ := s.Inventory(t.Context())
	got := map[task.RunningTask]bool{}
	for _, r := range has.Running {
		got[r] = true
	}
	want := map[task.RunningTask]bool{{ID: id(2), Slot: 1}: true, {ID: id(3), Slot: 2}: true, {ID: id(4), Slot: 0}: true}
	if !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	if got := receive(t, s.Reports()); got.Finished == nil || got.Finished.ID != id(2) {
		t.Errorf("reported %v", got)
	}
	s.ReleaseJob("j")
	receive(t, local.told)
}

// A TaskManager whose JobManager is quiet finds its successor before it counts
// as silent.
func TestVigil(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	stop := jm.lead(t, 4)
	c := NewClient(ClientConfig{Local: newRecorder("tm1"), JobManagers: []string{jm.addr}})
	c.cfg.Connections = cluster.NewPeers(cluster.Insecure(), cluster.Options{})
	defer c.cfg.Connections.Close()
	l := &link{term: 4, lease: 20 * time.Millisecond}
	over := make(chan bool, 1)
	go func() { over <- c.vigil(within(t), l, newWord()) }()
	stop()
	jm.lead(t, 5)
	if !receive(t, over) {
		t.Error("the vigil ended without a successor")
	}
}

// A task that is started again after its end is not run again: its end is told
// again.
func TestStartedAgain(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	local := newRecorder("tm1")
	run(t, local, ClientConfig{}, jm.addr)
	s := jm.join(t)
	s.Start([]task.Spec{spec1(1, 0)})
	receive(t, local.told)
	local.reports <- task.Report{Finished: &task.Finished{ID: id(1)}}
	for range 2 {
		if got := receive(t, s.Reports()); got.Finished == nil || got.Finished.ID != id(1) {
			t.Errorf("reported %v", got)
		}
		s.Start([]task.Spec{spec1(1, 0)}) // which the TaskManager ignores
	}
}

// A TaskManager obeys none who leads for a lower term than it has heard of, and
// whoever hears of a higher one takes no TaskManager.
func TestFencing(t *testing.T) {
	old, young := newJobManager(t, ServerConfig{}), newJobManager(t, ServerConfig{})
	old.lead(t, 1)
	stop := young.lead(t, 2)
	w := newWire(t, old.addr)
	w.open(false)
	local := newRecorder("tm1")
	run(t, local, ClientConfig{}, w.addr(), young.addr)
	young.join(t)
	stop()
	w.open(true) // the one that believes to lead can be reached, alone
	if _, err := old.admit(&hello{Protocol: protocol, Name: "tm1", Incarnation: "x", Slots: 1, Term: 2}); !cluster.IsKind(err, kindNotLeader) {
		t.Errorf("a hello of term 2 to a leader of term 1: %v", err)
	}
	c, _ := run(t, newRecorder("tm2"), ClientConfig{})
	c.term = 2
	if _, err := c.welcomed(&link{out: newOutbox(c.spare)}, &welcome{Session: "x", Term: 1, Lease: 1}); err == nil {
		t.Error("a welcome of term 1 was taken after term 2")
	}
	young.lead(t, 3)
	young.join(t)
	select {
	case s := <-old.sessions:
		t.Errorf("joined %v, which leads for an old term", s)
	default:
	}
}

// A TaskManager that has worked for a group takes no JobManager of another one,
// whatever its term, and is taken by none; nor does it take a lower term of its
// own group.
func TestGroups(t *testing.T) {
	ours, stray := func() string { return "ours" }, func() string { return "stray" }
	one, other := newJobManager(t, ServerConfig{Group: ours}), newJobManager(t, ServerConfig{Group: stray})
	stop := one.lead(t, 5)
	c, _ := run(t, newRecorder("tm1"), ClientConfig{}, one.addr, other.addr)
	one.join(t)
	other.lead(t, 9)
	stop()
	if _, _, err := c.leader(within(t)); !errors.Is(err, errNotOurs) || !strings.Contains(err.Error(), other.addr+" is of the group stray") {
		t.Errorf("only a stray one leads: %v", err)
	}
	if _, err := c.welcomed(&link{out: newOutbox(c.spare)}, &welcome{Session: "x", Group: "stray", Term: 9, Lease: 1}); err == nil {
		t.Error("a stray one's welcome was taken")
	}
	if _, err := other.admit(&hello{Protocol: protocol, Name: "tm1", Incarnation: "x", Slots: 1, Group: "ours", Term: 5}); !cluster.IsKind(err, kindRefused) {
		t.Errorf("a stray one takes the TaskManager: %v", err)
	}
	stop = one.lead(t, 3) // its log was restored
	if _, _, err := c.leader(within(t)); err == nil || !strings.Contains(err.Error(), "leads for term 3, and there was a term 5") {
		t.Errorf("a lower term: %v", err)
	}
	stop()
	one.lead(t, 6)
	one.join(t)
	if addr, term, err := c.leader(within(t)); err != nil || addr != one.addr || term != 6 {
		t.Errorf("%s leads for term %d: %v", addr, term, err)
	}
	if len(other.sessions) > 0 {
		t.Error("it has joined a stray one")
	}
}

// Whatever a TaskManager says, it is refused at worst.
func TestGarbage(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	peers := cluster.NewPeers(cluster.Insecure(), cluster.Options{})
	defer peers.Close()
	raw := cluster.NewTalk[json.RawMessage, down]("taskmanagers", "Session")
	good := `{"hello":{"protocol":3,"name":"tm1","incarnation":"x","slots":1}}`
	for _, say := range [][]string{
		{`{}`}, {`null`}, {`[]`}, {`{"hello":{}}`}, {`{"hello":{"protocol":99,"name":"tm1","incarnation":"x","slots":1}}`},
		{`{"hello":{"protocol":3,"name":"tm1","incarnation":"x","slots":1e9}}`},
		{`{"hello":{"protocol":3,"name":"tm1","incarnation":"x","slots":-1}}`},
		{`{"hello":{"protocol":3,"name":"tm1","incarnation":"x","slots":1,"inventory":{"running":[{"Slot":7}]}}}`},
		{`{"hello":{"protocol":3,"name":"tm1","incarnation":"x","slots":1,"inventory":{"held":[{"partitions":"////"}]}}}`},
		{`{"hello":{"protocol":3,"name":"tm1","incarnation":"x","session":"y"}}`},
		{good, `{"progress":[null]}`}, {good, `{"ack":99}`}, {good, `{"first":7,"reports":[{}]}`}, {good, `{"first":1,"reports":[null]}`},
		{good, `{"first":1,"reports":[{"Draining":true,"Started":{}}]}`}, {good, `{"first":1,"reports":[{"Progress":{}}]}`}, {good, `[`},
	} {
		s, err := raw.Open(within(t), peers.To(jm.addr))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range say {
			b := json.RawMessage(m)
			if err := s.Send(&b); err != nil {
				break // as Recv will say
			}
		}
		for err == nil {
			_, err = s.Recv()
		}
		if e := (*cluster.Error)(nil); !errors.As(err, &e) && !strings.Contains(err.Error(), "JSON") {
			t.Errorf("%s: %v", say, err)
		}
		s.Close()
	}
	run(t, newRecorder("tm1"), ClientConfig{}, jm.addr)
	for jm.join(t).Slots() != 4 {
	}
}

// Two processes can't be one TaskManager; one that was started again can, as
// soon as the first is gone.
func TestSameName(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	_, stop := run(t, newRecorder("tm1"), ClientConfig{}, jm.addr)
	s := jm.join(t)
	other := hello{Protocol: protocol, Name: "tm1", Incarnation: "other", Slots: 1}
	if _, err := jm.admit(&other); !cluster.IsKind(err, kindRefused) {
		t.Errorf("a second one: %v", err)
	}
	stop()
	run(t, newRecorder("tm1"), ClientConfig{}, jm.addr)
	again := jm.join(t)
	isClosed(t, s.Reports())
	if again == s {
		t.Error("the session goes on with another process")
	}
}

// A TaskManager that drains says so, in each session, lets its tasks finish
// and then leaves at once.
func TestDrain(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	stop := jm.lead(t, 1)
	local := newRecorder("tm1")
	c, _ := run(t, local, ClientConfig{}, jm.addr)
	s := jm.join(t)
	s.Start([]task.Spec{spec1(1, 0)})
	receive(t, local.told)
	drained := make(chan error, 1)
	go func() { drained <- c.Drain(within(t)) }()
	if got := receive(t, s.Reports()); !got.Draining {
		t.Errorf("reported %v", got)
	}
	stop()
	jm.lead(t, 2)
	s = jm.join(t)
	if got := receive(t, s.Reports()); !got.Draining {
		t.Errorf("reported %v", got)
	}
	select {
	case err := <-drained:
		t.Fatalf("drained while a task runs: %v", err)
	default:
	}
	local.reports <- task.Report{Finished: &task.Finished{ID: id(1)}}
	receive(t, s.Reports())
	if err := receive(t, drained); err != nil {
		t.Fatal(err)
	}
	idle := make(chan error, 1)
	go func() { idle <- c.AwaitIdle(within(t)) }()
	s.MayLeave()
	if err := receive(t, idle); err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	isClosed(t, s.Reports())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("drained without a JobManager: %v", err)
	}
}

// A TaskManager that nobody leads keeps its tasks, and what it may wait for is
// bounded: its own queue fills.
func TestBackPressure(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	local := newRecorder("tm1")
	c, _ := run(t, local, ClientConfig{}, jm.addr)
	s := jm.join(t)
	one := id(1)
	sent := 0
	for full := false; !full; sent++ { // nobody reads the session's reports
		select {
		case local.reports <- task.Report{Started: &one}:
		case <-time.After(time.Second):
			full = true
		}
	}
	if most := maxReports + reportsAhead + cap(local.reports) + 10; sent > most || !c.full() {
		t.Errorf("%d reports went out that nobody took, at most %d should", sent, most)
	}
	for range sent - 1 {
		receive(t, s.Reports())
	}
}

// A JobManager that joined the group later is found, and gets lines, too.
func TestNewMember(t *testing.T) {
	got := make(chan string, 1)
	later := newJobManager(t, ServerConfig{Lines: func(_, _ string, _ uint64, entries []joblog.Entry) error {
		got <- entries[0].Text
		return nil
	}})
	first := newJobManager(t, ServerConfig{Members: func() []string { return []string{later.addr} }})
	stop := first.lead(t, 1)
	lines := NewLines("tm1", 0)
	c, _ := run(t, newRecorder("tm1"), ClientConfig{Lines: lines}, first.addr)
	first.join(t)
	// Who is heard of later gets what is said after that.
	for limit := within(t); !slices.Contains(c.JobManagers(), later.addr); {
		if limit.Err() != nil {
			t.Fatal("the new member is not heard of")
		}
		time.Sleep(time.Millisecond)
	}
	lines.Append("j", joblog.Entry{Text: "hello"})
	if text := receive(t, got); text != "hello" {
		t.Errorf("%q", text)
	}
	stop()
	later.lead(t, 2)
	later.join(t)
	if all := c.JobManagers(); !cmp.Equal(all, []string{later.addr, first.addr}) {
		t.Errorf("JobManagers %v", all)
	}
}

// TaskManagers hear where the others are, and wait a while for those of whom
// they haven't heard.
func TestLookup(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	jm.lead(t, 1)
	one, _ := run(t, newRecorder("tm1"), ClientConfig{DataAddr: "a:1", LookupWait: 50 * time.Millisecond}, jm.addr)
	jm.join(t)
	if addr, err := one.Lookup(within(t), "tm1"); err != nil || addr != "a:1" {
		t.Errorf("%q %v", addr, err)
	}
	if _, err := one.Lookup(within(t), "tm2"); err == nil {
		t.Error("found one who isn't there")
	}
	one.cfg.LookupWait = patient
	found := make(chan string, 1)
	go func() {
		addr, _ := one.Lookup(within(t), "tm2")
		found <- addr
	}()
	two, _ := run(t, newRecorder("tm2"), ClientConfig{DataAddr: "b:2"}, jm.addr)
	if addr := receive(t, found); addr != "b:2" {
		t.Errorf("%q", addr)
	}
	if addr, err := two.Lookup(within(t), "tm1"); err != nil || addr != "a:1" {
		t.Errorf("%q %v", addr, err)
	}
	if err := two.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	one.cfg.LookupWait = time.Millisecond
	for {
		if _, err := one.Lookup(within(t), "tm2"); err != nil {
			break
		}
	}
}

// With certificates, a TaskManager is who its certificate says.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	a, err := cluster.NewAuthority("test", cluster.ValidFor(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	node := func(name string) *cluster.Security {
		c, err := a.Node(name, nil, cluster.ValidFor(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
		s, err := cluster.LoadSecurity(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), filepath.Join(dir, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	jm := secureJobManager(t, ServerConfig{}, node("jm1"))
	jm.lead(t, 1)
	peers := cluster.NewPeers(node("tm1"), cluster.Options{})
	defer peers.Close()
	thief := NewClient(ClientConfig{Local: newRecorder("tm2"), Connections: peers, JobManagers: []string{jm.addr}})
	if _, err := thief.converse(within(t), jm.addr); !cluster.IsKind(err, kindRefused) || !strings.Contains(err.Error(), `"tm2" has the certificate of "tm1"`) {
		t.Errorf("under another name: %v", err)
	}
	_, stop := run(t, newRecorder("tm1"), ClientConfig{Connections: peers}, jm.addr)
	jm.join(t)
	stop()
}
