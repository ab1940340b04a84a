package task_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/internal/membudget"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/region"
	"trestle/runner/task"
	"trestle/shuffle"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// subs is the number of sub-partitions of what isn't written whole.
const subs = 4

// A rig is a TaskManager with fake workers, or several, and as much of a
// JobManager as it takes to run the stages of one plan.
type rig struct {
	*member // the first
	t       *testing.T
	plan    *fusion.Plan
	code    *bundletest.Code
	workers *bundletest.Workers
	members []*member
	// bundleTime is how long a bundle of restrictions may run; 0: as long as it takes.
	bundleTime time.Duration

	mu       sync.Mutex
	changed  *sync.Cond
	started  map[task.ID]bool
	ended    map[task.ID]task.Report
	finished map[jobgraph.StageID][]uint32 // attempts by index
	width    map[jobgraph.StageID]int      // of stages that others read while they run; default 1
	shift    map[jobgraph.StageID]int      // of their tasks, to other TaskManagers
}

// options of a rig; zero values are good.
type options struct {
	mode   region.Mode // default: all blocking
	edit   []func(*pipepb.Pipeline)
	fns    map[string]bundletest.Fn
	worker func(n int, h *fnapitest.Harness) // changes the nth worker before it runs
	lanes  int                               // of a worker; default 4
	plans  task.Plans
	config func(*task.Config)
	// managers is the number of TaskManagers; default 1. Task i runs at number i
	// modulo it, and the first keeps the queues.
	managers int
	budget   int64 // of each TaskManager; default 64 MiB
}

// A member is one TaskManager.
type member struct {
	name    string
	budget  *membudget.Budget
	dirs    [2]string // shuffle and spill
	service *shuffle.Service
	tm      *task.TaskManager
	serve   func() (stop func()) // what other TaskManagers ask for; nil where there is no other
	silence func()               // what serve gave: it ends that
}

// Plan, BundleElements and BundleTime are task.Plans' methods.
func (r *rig) Plan(context.Context, string, string) (*fusion.Plan, error) { return r.plan, nil }
func (r *rig) BundleElements(string) int                                  { return 0 }
func (r *rig) BundleTime(string) time.Duration                            { return r.bundleTime }

func newRig(t *testing.T, pipeline string, o options) *rig {
	t.Helper()
	if o.mode == "" {
		o.mode = region.AllBlocking
	}
	if o.lanes == 0 {
		o.lanes = 4
	}
	r := &rig{
		t: t, plan: bundletest.Plan(t, pipeline, o.mode, o.edit...),
		started: map[task.ID]bool{}, ended: map[task.ID]task.Report{}, finished: map[jobgraph.StageID][]uint32{},
		width: map[jobgraph.StageID]int{}, shift: map[jobgraph.StageID]int{},
	}
	r.changed = sync.NewCond(&r.mu)
	r.code = &bundletest.Code{Plan: r.plan, Fns: o.fns}
	r.workers = bundletest.NewWorkers(t, o.lanes, func(n int) *fnapitest.Harness {
		h := &fnapitest.Harness{Process: r.code.Process}
		if o.worker != nil {
			o.worker(n, h)
		}
		return h
	})
	net := newNetwork(t, o.managers)
	for i := range max(1, o.managers) {
		r.members = append(r.members, r.newMember(i, o, net))
	}
	r.member = r.members[0]
	r.serveAll()
	return r
}

// newMember makes the nth TaskManager.
func (r *rig) newMember(n int, o options, net *loopback) *member {
	r.t.Helper()
	if o.budget == 0 {
		o.budget = 64 << 20
	}
	m := &member{
		name: "tm", budget: membudget.New(o.budget), dirs: [2]string{r.t.TempDir(), r.t.TempDir()},
	}
	disk, err := localdisk.New(m.dirs[0], localdisk.Config{Budget: m.budget})
	if err != nil {
		r.t.Fatal(err)
	}
	pipes := memory.New(memory.Config{Budget: m.budget, Dir: m.dirs[0], Window: 64 << 10})
	m.service = shuffle.New(m.budget, map[string]driver.Driver{shuffle.Blocking: disk, shuffle.Pipelined: pipes})
	cfg := task.Config{
		Slots: 2, Shuffle: m.service, Budget: m.budget, Workers: r.workers, Plans: r, SpillDir: m.dirs[1],
	}
	if net != nil {
		m.name = fmt.Sprintf("tm-%d", n)
		net.join(m, &cfg)
	}
	cfg.Name = m.name
	if o.plans != nil {
		cfg.Plans = o.plans
	}
	if o.config != nil {
		o.config(&cfg)
	}
	m.tm = task.New(cfg)
	if net != nil {
		m.serve = net.server(m, disk, pipes)
	}
	return m
}

// serveAll runs the TaskManagers to the end of the test, and checks that they
// leave nothing.
func (r *rig) serveAll() {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, m := range r.members {
		all.Go(func() {
			if err := m.tm.Run(ctx); err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
		all.Go(func() {
			for rep := range m.tm.Reports() {
				r.report(rep)
			}
		})
		if m.serve != nil {
			m.silence = m.serve()
		}
	}
	r.t.Cleanup(func() {
		for _, m := range r.members {
			m.tm.ReleaseJob("job")
		}
		for _, m := range r.members {
			if m.silence != nil {
				m.silence()
			}
		}
		cancel()
		all.Wait()
		for _, m := range r.members {
			r.clean(m)
		}
		if n := r.workers.Leased(); n != 0 {
			r.t.Errorf("%d lanes of workers are still lent", n)
		}
	})
}

func (r *rig) report(rep task.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rep.Started != nil:
		r.started[*rep.Started] = true
	case rep.Finished != nil:
		r.ended[rep.Finished.ID] = rep
	case rep.Failed != nil:
		r.ended[rep.Failed.ID] = rep
	}
	r.changed.Broadcast()
}

func (r *rig) clean(m *member) {
	if used := m.budget.Used(); used != 0 {
		r.t.Errorf("%d bytes of the budget of %s are still taken", used, m.name)
	}
	for _, dir := range m.dirs {
		files, err := os.ReadDir(dir)
		if err != nil {
			r.t.Error(err)
		}
		for _, f := range files {
			if n := count(dir + "/" + f.Name()); n > 0 {
				r.t.Errorf("%d files are left in %s", n, f.Name())
			}
		}
	}
}

// count tells how many files are in a tree.
func count(path string) int {
	files, err := os.ReadDir(path)
	if err != nil {
		return 1 // it is a file
	}
	n := 0
	for _, f := range files {
		n += count(path + "/" + f.Name())
	}
	return n
}

// stage finds the stage of a transform.
func (r *rig) stage(transform string) jobgraph.StageID {
	r.t.Helper()
	return bundletest.StageOf(r.t, r.plan, transform)
}

// spec says what task index of n of a stage does, given what has finished. What
// is pipelined is read from the first attempt.
func (r *rig) spec(stage jobgraph.StageID, index, n int, attempt uint32) task.Spec {
	node := r.plan.Graph.Stage(stage)
	s := task.Spec{
		ID:   task.ID{Job: "job", Stage: stage, Index: index, Attempt: attempt},
		Plan: "plan", Parallelism: n,
	}
	if len(r.members) > 1 && node.Root == jobgraph.RootRestrictions {
		s.QueueAt = r.members[0].name
	}
	if r.plan.Graph.Streaming {
		return r.streamSpec(s, node)
	}
	for _, id := range node.Inputs {
		in := r.input(id)
		if node.Root != jobgraph.RootRestrictions {
			in.Lo, in.Hi = index*in.Hi/n, (index+1)*in.Hi/n
		}
		s.Inputs = append(s.Inputs, in)
	}
	for _, id := range node.SideInputs {
		s.SideInputs = append(s.SideInputs, r.input(id))
	}
	for _, id := range node.Outputs {
		s.Outputs = append(s.Outputs, task.Output{Dataset: id, Subpartitions: r.subsOf(r.plan.Graph.Dataset(id))})
	}
	return s
}

func (r *rig) subsOf(ds *jobgraph.Dataset) int {
	if r.plan.Graph.Streaming && ds.Partitioning != jobgraph.Forward && len(ds.Consumers) > 0 {
		return max(1, r.width[ds.Consumers[0]])
	}
	if ds.Partitioning == jobgraph.Forward || ds.Partitioning == jobgraph.Whole {
		return 1
	}
	return subs
}

// input is the whole of a dataset.
func (r *rig) input(id jobgraph.DatasetID) task.Input {
	ds := r.plan.Graph.Dataset(id)
	in := task.Input{Dataset: id, Hi: r.subsOf(ds)}
	r.mu.Lock()
	defer r.mu.Unlock()
	attempts := r.finished[ds.Producer]
	if ds.Exchange == jobgraph.Pipelined {
		attempts = make([]uint32, max(1, r.width[ds.Producer]))
		for i := range attempts {
			attempts[i] = 1
		}
	}
	for i, a := range attempts {
		in.Partitions = append(in.Partitions, task.Partition{Index: i, Attempt: a})
		if len(r.members) > 1 {
			in.At = append(in.At, r.at(ds.Producer, i).name)
		}
	}
	return in
}

// at is the TaskManager of a task.
func (r *rig) at(stage jobgraph.StageID, index int) *member {
	return r.members[(index+r.shift[stage])%len(r.members)]
}

// start starts tasks, those of one TaskManager in one slot.
func (r *rig) start(specs ...task.Spec) {
	for _, m := range r.members {
		var mine []task.Spec
		for _, s := range specs {
			if r.at(s.Stage, s.Index) == m {
				mine = append(mine, s)
			}
		}
		m.tm.Start(mine)
	}
}

// began waits until a task has told that it has begun.
func (r *rig) began(id task.ID) {
	r.t.Helper()
	r.until(func() bool { return r.started[id] })
}

// end waits for the last report of a task.
func (r *rig) end(id task.ID) task.Report {
	r.t.Helper()
	var rep task.Report
	r.until(func() bool {
		var ok bool
		rep, ok = r.ended[id]
		return ok
	})
	return rep
}

func (r *rig) until(ok func() bool) {
	r.t.Helper()
	late := false
	t := time.AfterFunc(patience, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.changed.Broadcast()
	})
	defer t.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok() {
		if late {
			r.t.Fatal("waited too long")
		}
		r.changed.Wait()
	}
}

// finish waits for tasks that must succeed.
func (r *rig) finish(specs ...task.Spec) (all []*task.Finished) {
	r.t.Helper()
	for _, s := range specs {
		rep := r.end(s.ID)
		if rep.Failed != nil {
			r.t.Fatalf("%v failed (%s): %s", s.ID, rep.Failed.Cause, rep.Failed.Message)
		}
		all = append(all, rep.Finished)
		r.mu.Lock()
		attempts := r.finished[s.Stage]
		for len(attempts) <= s.Index {
			attempts = append(attempts, 0)
		}
		attempts[s.Index] = s.Attempt
		r.finished[s.Stage] = attempts
		r.mu.Unlock()
	}
	return all
}

// run runs n tasks of a stage to their ends.
func (r *rig) run(stage jobgraph.StageID, n int) []*task.Finished {
	r.t.Helper()
	var specs []task.Spec
	for i := range n {
		specs = append(specs, r.spec(stage, i, n, 1))
	}
	r.start(specs...)
	return r.finish(specs...)
}

// runTo runs all stages before that of a transform, one task each.
func (r *rig) runTo(transform string) {
	r.t.Helper()
	end := r.stage(transform)
	for _, s := range r.plan.Graph.Stages {
		if s.ID == end {
			return
		}
		r.run(s.ID, 1)
	}
}

// runAll runs all stages, one task each.
func (r *rig) runAll() {
	r.t.Helper()
	for _, s := range r.plan.Graph.Stages {
		r.run(s.ID, 1)
	}
}

// output gives what finished tasks wrote of a collection, sorted.
func (r *rig) output(collection string) string {
	r.t.Helper()
	var all []string
	for _, ds := range r.plan.Graph.Datasets {
		if ds.Collection != collection {
			continue
		}
		in := r.input(ds.ID)
		prog, err := r.code.Program(string(ds.Producer))
		if err != nil {
			r.t.Fatal(err)
		}
		for _, p := range in.Partitions {
			id := shuffle.PartitionID{Job: "job", Dataset: string(ds.ID), Index: p.Index, Attempt: p.Attempt}
			for _, s := range prog.Sinks {
				if s.Output.Collection != collection {
					continue
				}
				rd, err := r.at(ds.Producer, p.Index).service.Open(r.t.Context(), string(ds.Exchange), []shuffle.PartitionID{id}, in.Lo, in.Hi)
				if err != nil {
					r.t.Fatal(err)
				}
				all = append(all, bundletest.ReadAll(r.t, rd, s.Windowed)...)
			}
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	r.t.Fatalf("no dataset holds collection %s:\n%v", collection, r.plan)
	return ""
}

// emits is user code that emits elements for each that it is given.
func emits(collection, text string) bundletest.Fn {
	return func(c *bundletest.Call, _ *coders.Value) error { return c.EmitAll(collection, text) }
}

// numbers is count elements of n keys.
func numbers(count, n int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "k%d:%d ", i%n, i)
	}
	return b.String()
}

// sorted is a text's words in order.
func sorted(text string) string {
	w := strings.Fields(text)
	slices.Sort(w)
	return strings.Join(w, " ")
}
