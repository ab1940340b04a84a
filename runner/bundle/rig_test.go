package bundle_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/jobgraph"
	"trestle/runner/metrics"
	"trestle/runner/region"
	"trestle/shuffle"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// simple has a stage, Work, that reads what was reshuffled and writes by key.
const simple = `
impulse   Start         out=a
pardo     Make   in=a   out=b
reshuffle Spread in=b   out=c
pardo     Work   in=c   out=d
gbk       Group  in=d   out=e
pardo     End    in=e   out=f`

// timed is simple with timers in Work.
const timed = `
impulse   Start         out=a
pardo     Make   in=a   out=b
pardo     Work   in=b   out=d stateful timer=bytes
gbk       Group  in=d   out=e
pardo     End    in=e   out=f`

// A rig runs bundles of one stage.
type rig struct {
	t       *testing.T
	code    *bundletest.Code
	workers *bundletest.Workers
	budget  *membudget.Budget
	dir     string
	service *shuffle.Service
	ids     []shuffle.PartitionID
	runner  *bundle.Runner

	committed  []*metrics.Set
	states     []*fakeState
	stateFails error // of each request to append
}

// options of a rig; zero values are good.
type options struct {
	pipeline string
	stage    string // by one of its transforms
	edit     []func(*pipepb.Pipeline)
	fn       bundletest.Fn
	// worker changes the nth worker before it runs.
	worker func(n int, h *fnapitest.Harness)
	tries  int // of either kind
	budget int64
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	if o.pipeline == "" {
		o.pipeline = simple
	}
	if o.stage == "" {
		o.stage = "Work"
	}
	if o.tries == 0 {
		o.tries = 2
	}
	if o.budget == 0 {
		o.budget = 64 << 20
	}
	plan := bundletest.Plan(t, o.pipeline, region.AllBlocking, o.edit...)
	code := &bundletest.Code{Plan: plan, Fns: map[string]bundletest.Fn{}}
	if o.fn != nil {
		code.Fns[o.stage] = o.fn
	}
	prog, err := bundle.Compile(plan, bundletest.StageOf(t, plan, o.stage))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, code: code, budget: membudget.New(o.budget), dir: t.TempDir()}
	r.workers = bundletest.NewWorkers(t, 1, func(n int) *fnapitest.Harness {
		h := &fnapitest.Harness{Process: code.Process}
		if o.worker != nil {
			o.worker(n, h)
		}
		return h
	})
	r.openShuffle()
	r.runner = &bundle.Runner{
		Program: prog,
		Dests:   map[jobgraph.DatasetID]*bundle.Dest{},
		Acquire: func(ctx context.Context) (bundle.Lease, error) { return r.workers.Acquire(ctx, "", "", nil) },
		NewState: func() bundle.State {
			s := &fakeState{fails: r.stateFails}
			r.states = append(r.states, s)
			return s
		},
		CacheTokens: func(*fnapi.Worker) []*fnpb.ProcessBundleRequest_CacheToken { return nil },
		Committed:   func(set *metrics.Set) { r.committed = append(r.committed, set) },
		UserTries:   o.tries, WorkerTries: o.tries,
	}
	for _, id := range prog.Node.Outputs {
		p := shuffle.PartitionID{Job: "job", Dataset: string(id)}
		w, err := r.service.Create(t.Context(), p, 3, shuffle.Blocking)
		if err != nil {
			t.Fatal(err)
		}
		r.ids = append(r.ids, p)
		r.runner.Dests[id] = &bundle.Dest{Partitioning: prog.Dataset(id).Partitioning, Subpartitions: 3, Writer: w}
	}
	t.Cleanup(r.clean)
	return r
}

func (r *rig) openShuffle() {
	disk, err := localdisk.New(r.dir, localdisk.Config{Budget: r.budget})
	if err != nil {
		r.t.Fatal(err)
	}
	r.service = shuffle.New(r.budget, map[string]driver.Driver{
		shuffle.Blocking:  disk,
		shuffle.Pipelined: memory.New(memory.Config{Budget: r.budget, Dir: r.dir}),
	})
}

// clean ends the task, and checks that it has left nothing.
func (r *rig) clean() {
	r.runner.Close()
	for _, d := range r.runner.Dests {
		d.Writer.Abort()
	}
	r.service.ReleaseJob("job")
	if used := r.budget.Used(); used != 0 {
		r.t.Errorf("%d bytes of the budget are still taken", used)
	}
	if n := r.workers.Leased(); n != 0 {
		r.t.Errorf("%d lanes of workers are still lent", n)
	}
	for i, s := range r.states {
		if s.committed == s.aborted {
			r.t.Errorf("the state of try %d: committed %v, aborted %v", i, s.committed, s.aborted)
		}
	}
	_ = os.RemoveAll(r.dir)
}

// run runs a bundle of these elements.
func (r *rig) run(text string) (*bundle.Result, error) {
	return r.runInput(&bundle.Input{Chunks: [][]byte{bundletest.Chunk(text)}, Elements: len(strings.Fields(text))})
}

func (r *rig) runInput(in *bundle.Input) (*bundle.Result, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	return r.runner.Run(ctx, in)
}

// output closes the partitions and gives all that is in them.
func (r *rig) output() string {
	r.t.Helper()
	var all []string
	for id, d := range r.runner.Dests {
		if _, err := d.Writer.Close(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		w := r.runner.Program.Sinks[0].Windowed
		for _, s := range r.runner.Program.Sinks {
			if slices.Contains(s.Output.Datasets, id) {
				w = s.Windowed
			}
		}
		rd, err := r.service.Open(r.t.Context(), shuffle.Blocking, []shuffle.PartitionID{{Job: "job", Dataset: string(id)}}, 0, 3)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, bundletest.ReadAll(r.t, rd, w)...)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// fakeState counts what happens to it.
type fakeState struct {
	mu                 sync.Mutex
	appended           int
	fails              error
	committed, aborted bool
}

func (s *fakeState) Get(context.Context, *fnpb.StateKey, *fnpb.StateGetRequest) (data, next []byte, err error) {
	return nil, nil, nil
}

func (s *fakeState) Append(context.Context, *fnpb.StateKey, []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appended++
	return s.fails
}
func (s *fakeState) Clear(context.Context, *fnpb.StateKey) error { return nil }
func (s *fakeState) Commit() error                               { s.committed = true; return nil }
func (s *fakeState) Abort()                                      { s.aborted = true }
