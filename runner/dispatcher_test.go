package runner_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"
	"trestle/runner/task"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A memoryJournal is a journal that a test can hold up or break.
type memoryJournal struct {
	mu      sync.Mutex
	records []catalog.Record
	appends int
	gate    chan struct{} // when set, every Append takes one token
	broken  error
	board   *runner.Board
}

func (j *memoryJournal) Replay(_ context.Context, fold func(catalog.Record) error) error {
	state := catalog.NewState()
	defer func() { j.board.Restore(0, state) }()
	for _, r := range j.records {
		data, err := catalog.Encode(r)
		if err != nil {
			return err
		}
		back, err := catalog.Decode(data)
		if err != nil {
			return err
		}
		if err := errors.Join(state.Apply(back), fold(back)); err != nil {
			return err
		}
	}
	return nil
}

func (j *memoryJournal) Append(ctx context.Context, records ...catalog.Record) error {
	if j.gate != nil {
		select {
		case <-j.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	j.records = append(j.records, records...)
	j.appends++
	j.board.Apply(uint64(j.appends), records)
	return nil
}

// A fakeManager runs tasks as its behave says.
type fakeManager struct {
	name    string
	slots   int
	has     task.Inventory
	reports chan task.Report
	// behave is called for every started task and returns its end, nil for none
	// yet. The default is to finish.
	behave func(task.Spec) *task.Report

	mu       sync.Mutex
	started  []task.Spec
	cancels  []task.ID
	released []string
	drained  []string
}

func newManager(name string, slots int) *fakeManager {
	return &fakeManager{name: name, slots: slots, reports: make(chan task.Report, 100), behave: finish}
}

func finish(s task.Spec) *task.Report {
	f := &task.Finished{ID: s.ID, InElements: 1, OutElements: 2, Metrics: []byte("m")}
	for _, o := range s.Outputs {
		f.Outputs = append(f.Outputs, task.OutputSize{Dataset: o.Dataset, Bytes: 10, Count: 1, BySub: make([]int64, o.Subpartitions), Durable: "disk"})
	}
	return &task.Report{Finished: f}
}

func fail(s task.Spec) *task.Report {
	return &task.Report{Failed: &task.Failed{ID: s.ID, Cause: task.CauseUser, Message: `transform "Boom": KeyError: 'x'`}}
}

func (m *fakeManager) Name() string                                      { return m.name }
func (m *fakeManager) Slots() int                                        { return m.slots }
func (m *fakeManager) Inventory(context.Context) (task.Inventory, error) { return m.has, nil }
func (m *fakeManager) Reports() <-chan task.Report                       { return m.reports }

func (m *fakeManager) Start(column []task.Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range column {
		m.started = append(m.started, s)
		m.reports <- task.Report{Started: &s.ID}
		if r := m.behave(s); r != nil {
			m.reports <- *r
		}
	}
}

func (m *fakeManager) Cancel(ids []task.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancels = append(m.cancels, ids...)
	for _, id := range ids {
		m.reports <- task.Report{Failed: &task.Failed{ID: id, Cause: task.CauseCanceled}}
	}
}

func (m *fakeManager) DrainJob(job string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drained = append(m.drained, job)
}

func (m *fakeManager) Release(string, jobgraph.DatasetID, []task.Partition) {}

func (m *fakeManager) ReleaseJob(job string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.released = append(m.released, job)
}

// tasks lists the started tasks as s1[0]#0.
func (m *fakeManager) tasks() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, s := range m.started {
		out = append(out, catalog.TaskID{Stage: s.Stage, Index: s.Index, Attempt: s.Attempt}.String())
	}
	return out
}

// A house is a Dispatcher with the Board that shows what it does.
type house struct {
	*runner.Dispatcher
	*runner.Board
}

// run runs a Dispatcher until the returned function is called, which returns
// what Run returned.
func run(t *testing.T, j *memoryJournal, ms ...runner.TaskManager) (house, func() error) {
	t.Helper()
	j.board = runner.NewBoard(nil)
	d := house{runner.New(runner.Config{Journal: j, Board: j.board, TaskManagers: ms}), j.board}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return d, func() error { cancel(); return <-ended }
}

// oneStage is Impulse and a ParDo.
func oneStage() *jobgraph.Graph {
	return &jobgraph.Graph{
		Stages:  []*jobgraph.Stage{{ID: "s1", Name: "Do", Root: jobgraph.RootImpulse}},
		Regions: []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}, Pointwise: true}},
	}
}

// twoStages is a ParDo and what groups its output.
func twoStages() *jobgraph.Graph {
	return &jobgraph.Graph{
		Stages: []*jobgraph.Stage{
			{ID: "s1", Name: "Do", Root: jobgraph.RootImpulse, Outputs: []jobgraph.DatasetID{"d1"}},
			{ID: "s2", Name: "Group", Root: jobgraph.RootGroup, Inputs: []jobgraph.DatasetID{"d1"}},
		},
		Datasets: []*jobgraph.Dataset{{ID: "d1", Producer: "s1", Consumers: []jobgraph.StageID{"s2"}, Partitioning: jobgraph.ByKey, Exchange: jobgraph.Blocking}},
		Regions:  []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}, Pointwise: true}, {ID: "r2", Stages: []jobgraph.StageID{"s2"}, Pointwise: true}},
	}
}

func submit(t *testing.T, d house, id string, g *jobgraph.Graph) {
	t.Helper()
	if err := d.Submit(t.Context(), runner.Submission{ID: id, Name: "n", Plan: "p", Graph: g, Options: []byte(`{"a": "<b>"}`)}); err != nil {
		t.Fatal(err)
	}
}

// states waits for the job's end and lists what it came to.
func states(t *testing.T, d house, id string) []string {
	t.Helper()
	seq, err := d.Watch(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for s := range seq {
		text := string(s.State)
		if s.Error != "" {
			text += ": " + s.Error
		}
		out = append(out, text)
	}
	return out
}

func expect[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestSmallJobCostsTwoWrites(t *testing.T) {
	j, m := &memoryJournal{}, newManager("a", 2)
	d, stop := run(t, j, m)
	submit(t, d, "j", oneStage())
	expect(t, "states", states(t, d, "j"), []string{"STARTING", "RUNNING", "DONE"})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if j.appends != 2 {
		t.Errorf("%d writes", j.appends)
	}
	shown, err := d.Job("j")
	if err != nil {
		t.Fatal(err)
	}
	got := shown.Stages[0].Tasks[0]
	if got.State != runner.Finished || got.TaskManager != "a" || got.OutElements != 2 || got.Started.IsZero() || got.Ended.IsZero() {
		t.Errorf("task %+v", got)
	}
	if ms, err := d.Metrics("j"); err != nil || len(ms) != 1 || !ms[0].Finished || string(ms[0].Set) != "m" {
		t.Errorf("metrics %v, %v", ms, err)
	}
}

// Nothing is started, answered or shown before it is durable.
func TestLogBeforeEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, m := &memoryJournal{gate: make(chan struct{})}, newManager("a", 1)
		d, stop := run(t, j, m)
		answered := make(chan error, 1)
		go func() {
			answered <- d.Submit(t.Context(), runner.Submission{ID: "j", Plan: "p", Graph: oneStage()})
		}()
		synctest.Wait()
		if len(m.tasks()) > 0 || len(answered) > 0 || len(d.Jobs()) > 0 {
			t.Fatalf("started %v, answered %d, shown %v before the record was durable", m.tasks(), len(answered), d.Jobs())
		}
		j.gate <- struct{}{}
		synctest.Wait()
		if len(m.tasks()) != 1 || len(answered) != 1 {
			t.Fatalf("started %v, answered %d", m.tasks(), len(answered))
		}
		if got := d.Jobs()[0].State; got != catalog.Running {
			t.Fatalf("the job is %s before its end was durable", got)
		}
		if len(m.released) > 0 {
			t.Fatal("the job was released before its end was durable")
		}
		j.gate <- struct{}{}
		synctest.Wait()
		if got := d.Jobs()[0].State; got != catalog.Done {
			t.Fatalf("the job is %s", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUserErrorFailsTheJobAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("a", 2)
		m.behave = func(s task.Spec) *task.Report {
			if s.Job == "bad" {
				return fail(s)
			}
			return finish(s)
		}
		d, stop := run(t, &memoryJournal{}, m)
		submit(t, d, "bad", oneStage())
		submit(t, d, "good", twoStages())
		expect(t, "bad", states(t, d, "bad"), []string{"STARTING", "RUNNING", `FAILED: transform "Boom": KeyError: 'x'`})
		expect(t, "good", states(t, d, "good"), []string{"STARTING", "RUNNING", "DONE"})
		shown, _ := d.Job("bad")
		if shown.Restarts != 2 || len(shown.Failures) != 3 {
			t.Errorf("%d restarts, failures %v", shown.Restarts, shown.Failures)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("a", 1)
		m.behave = func(task.Spec) *task.Report { return nil }
		d, stop := run(t, &memoryJournal{}, m)
		submit(t, d, "j", oneStage())
		submit(t, d, "waiting", oneStage())
		synctest.Wait()
		for range 2 { // twice does no harm
			if err := d.Cancel(t.Context(), "j"); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, "states", states(t, d, "j"), []string{"STARTING", "RUNNING", "CANCELLING", "CANCELLED"})
		synctest.Wait()
		expect(t, "tasks", m.tasks(), []string{"s1[0]#0", "s1[0]#0"})
		if err := d.Cancel(t.Context(), "waiting"); err != nil {
			t.Fatal(err)
		}
		if err := d.Cancel(t.Context(), "nobody"); !errors.Is(err, runner.ErrUnknownJob) {
			t.Errorf("cancel of an unknown job: %v", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := d.Cancel(t.Context(), "j"); !errors.Is(err, runner.ErrStopped) {
			t.Errorf("cancel after the end: %v", err)
		}
	})
}

// A Dispatcher that starts on the journal of another goes on with its jobs,
// and runs nothing again that is still there.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, m := &memoryJournal{}, newManager("a", 1)
		m.behave = func(s task.Spec) *task.Report {
			if s.Stage == "s2" {
				return nil
			}
			return finish(s)
		}
		d, stop := run(t, j, m)
		submit(t, d, "done", oneStage())
		submit(t, d, "j", twoStages())
		synctest.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}

		again := newManager("a", 1)
		again.has.Held = []task.HeldPartitions{{Job: "j", Dataset: "d1", Partitions: []task.Partition{{Index: 0, Attempt: 0}}}}
		d, stop = run(t, j, again)
		<-d.Ready()
		expect(t, "j", states(t, d, "j"), []string{"STARTING", "RUNNING", "DONE"})
		expect(t, "done", states(t, d, "done"), []string{"STARTING", "RUNNING", "DONE"})
		expect(t, "tasks", again.tasks(), []string{"s2[0]#1"})
		if err := d.Submit(t.Context(), runner.Submission{ID: "j", Graph: oneStage()}); !errors.Is(err, runner.ErrJobExists) {
			t.Errorf("submitted twice: %v", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}

		lost := newManager("a", 1) // and once more, with all that was held gone
		j.records = slices.DeleteFunc(j.records, func(r catalog.Record) bool {
			f, ok := r.(*catalog.TaskFinished)
			return ok && f.Task.Stage == "s2"
		})
		d, stop = run(t, j, lost)
		<-d.Ready()
		states(t, d, "j")
		expect(t, "tasks", lost.tasks(), []string{"s1[0]#1", "s2[0]#2"})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLostTaskManagerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("a", 1)
		m.behave = func(task.Spec) *task.Report { return nil }
		d, stop := run(t, &memoryJournal{}, m)
		submit(t, d, "j", oneStage())
		synctest.Wait()
		close(m.reports)
		synctest.Wait()
		if s := d.Jobs()[0]; s.Tasks.Running != 0 || s.State != catalog.Running {
			t.Errorf("without its TaskManager the job is %+v", s)
		}
		back := newManager("a", 1)
		if err := d.Join(t.Context(), back); err != nil {
			t.Fatal(err)
		}
		expect(t, "states", states(t, d, "j"), []string{"STARTING", "RUNNING", "DONE"})
		expect(t, "tasks", back.tasks(), []string{"s1[0]#1"})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBrokenJournalStopsTheDispatcher(t *testing.T) {
	j, m := &memoryJournal{broken: errors.New("disk full")}, newManager("a", 1)
	d, stop := run(t, j, m)
	err := d.Submit(t.Context(), runner.Submission{ID: "j", Plan: "p", Graph: oneStage()})
	if !errors.Is(err, runner.ErrStopped) {
		t.Errorf("submit: %v", err)
	}
	if err := stop(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Run: %v", err)
	}
	if len(m.tasks()) > 0 {
		t.Errorf("started %v", m.tasks())
	}
}

func TestBadSubmissions(t *testing.T) {
	d, stop := run(t, &memoryJournal{}, newManager("a", 1))
	noRegion := oneStage()
	noRegion.Regions = nil
	for name, s := range map[string]runner.Submission{
		"no graph":    {ID: "a"},
		"no id":       {Graph: oneStage()},
		"no region":   {ID: "b", Graph: noRegion},
		"bad options": {ID: "c", Graph: oneStage(), Options: []byte("{")},
	} {
		if err := d.Submit(t.Context(), s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	submit(t, d, "good", oneStage())
	states(t, d, "good")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// lines collects messages.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Post(_ uint64, job string, _ time.Time, level slog.Level, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, level.String()+" "+text)
}

func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, said := newManager("a", 1), &lines{}
		m.behave = fail
		j := &memoryJournal{board: runner.NewBoard(said)}
		d := house{Board: j.board}
		d.Dispatcher = runner.New(runner.Config{
			Journal: j, Board: j.board, TaskManagers: []runner.TaskManager{m},
			Policy: schedule.Policy{Restart: catalog.RestartStrategy{Kind: catalog.RestartFixedDelay, Attempts: 1, Delay: time.Second}},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		submit(t, d, "j", oneStage())
		states(t, d, "j")
		expect(t, "messages", said.text, []string{
			`INFO job "n" is accepted: 1 stages in 1 regions`,
			`DEBUG region r1: number of tasks s1: 1`,
			"WARN user s1[0]#0 on a: transform \"Boom\": KeyError: 'x'\n1 tasks will be run again, in 1s",
			`ERROR transform "Boom": KeyError: 'x'`,
		})
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}
