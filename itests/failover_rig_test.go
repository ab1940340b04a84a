package itests

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
	"trestle/itests/netns"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const (
	// leaderTime is how long nobody may lead after a leader's end. What is aimed
	// at is 5 s at the 99th percentile; tests on a busy machine are patient.
	leaderTime = 15 * time.Second
	// faultyJobTime bounds a job that lives through faults.
	faultyJobTime = 90 * time.Second
)

// A rig is a fleet under test.
type rig struct {
	*fleet.Fleet
	t      *testing.T
	dir    string
	worker string // the program of Go workers
	chance *rand.Rand
	jobs   int         // submitted so far
	before *fleet.Node // who led before a fault
}

// newRig makes a fleet's hosts for the length of the test, and starts nothing.
func newRig(t *testing.T, cfg fleet.Config) *rig {
	t.Helper()
	need(t, "failover")
	cfg.Loopback = cfg.Loopback || onLoopback(t)
	t.Parallel() // jobs sleep most of their time
	program, err := filepath.Abs(*binary)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Trestle, cfg.Dir = program, t.TempDir()
	if cfg.TaskSize == "" {
		cfg.TaskSize = "4KiB" // several tasks in each stage, of little data
	}
	f, err := fleet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("the fleet's hosts: %v", err)
		}
		if t.Failed() {
			for _, n := range f.Nodes {
				t.Logf("%s's log ends:\n%s", n.Name, fleet.Tail(n.Log(), 6<<10))
			}
		}
	})
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance begins with %d", seed)
	return &rig{Fleet: f, t: t, dir: cfg.Dir, worker: workerProgram(t), chance: rand.New(rand.NewPCG(seed, seed))}
}

// startRig is newRig, with everything started.
func startRig(t *testing.T, cfg fleet.Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

var (
	loopback       = flag.Bool("loopback", false, "make hosts of loopback addresses, also where namespaces can be made")
	hostsAvailable = sync.OnceValue(netns.Available)
)

// onLoopback reports whether hosts are to be made of loopback addresses.
func onLoopback(t *testing.T) bool {
	if *loopback {
		return true
	}
	err := hostsAvailable()
	if err != nil {
		t.Log("hosts are made of loopback addresses: ", err)
	}
	return err != nil
}

// workerProgram compiles the worker of package jobs, anew in each test process.
func workerProgram(t *testing.T) string {
	t.Helper()
	path, err := buildWorker(cached(t, "bin", "failover-worker"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var builtWorker struct {
	sync.Once
	err error
}

func buildWorker(path string) (string, error) {
	builtWorker.Do(func() {
		out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "trestle/itests/worker").CombinedOutput()
		if err != nil {
			builtWorker.err = fmt.Errorf("compile the worker: %w\n%s", err, out)
		}
	})
	return path, builtWorker.err
}

// A trial is one job in a fleet, and what is known of it from outside.
type trial struct {
	r     *rig
	shape jobs.Shape
	name  string
	id    string
	ended chan struct{} // closed when the follower has seen the end

	state   jobpb.JobState_Enum // valid when ended is closed
	failure error
	at      time.Time
	lost    error // the follower's stream ended otherwise

	done map[taskKey]fleet.Task // tasks that were finished when it was noted

	watched chan struct{} // closed when nobody watches any more
	last    *fleet.Job    // as shown last; watch's, until watched is closed
	turns   []turn        // likewise
}

type taskKey struct {
	stage string
	index int
}

// size is a shape of about so much sleep in each of the four steps.
func size(elements int, step time.Duration) jobs.Shape {
	return jobs.Shape{Elements: elements, FirstKeys: 40, SecondKeys: 24, Splits: 4, Pause: step / time.Duration(elements)}
}

// begin submits a job at one node and follows it at another, or the same.
func (r *rig) begin(shape jobs.Shape, submitAt, followAt *fleet.Node, options ...string) *trial {
	r.t.Helper()
	x := r.prepareTrial(shape)
	p, err := x.goProto()
	if err != nil {
		r.t.Fatal(err)
	}
	x.submit(p, submitAt, options...)
	x.follow(followAt)
	return x
}

// goProto is the job's pipeline in Go.
func (x *trial) goProto() (*pipepb.Pipeline, error) {
	boot, err := jobs.Boot(x.shape.Dir, x.r.worker)
	if err != nil {
		return nil, err
	}
	return x.shape.Proto(x.r.t.Context(), boot)
}

// pythonProto is the job's pipeline in Python.
func (x *trial) pythonProto() (*pipepb.Pipeline, error) {
	t, s := x.r.t, x.shape
	boot, err := jobs.PythonBoot(s.Dir, python(t))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.Dir, "pipeline.pb")
	runClient(t, python(t), absolute(t, "python/failover_pipeline.py"),
		s.Dir, strconv.Itoa(s.Elements), strconv.FormatInt(s.Pause.Microseconds(), 10), file)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := new(pipepb.Pipeline)
	if err := proto.Unmarshal(text, p); err != nil {
		return nil, err
	}
	return p, jobs.StartBy(p, boot)
}

func (x *trial) submit(p *pipepb.Pipeline, at *fleet.Node, options ...string) {
	t := x.r.t
	t.Helper()
	c, err := at.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), faultyJobTime)
	defer cancel()
	if x.id, err = c.Submit(ctx, x.name, p, options...); err != nil {
		t.Fatalf("submit at %s: %v", at.Name, err)
	}
}

func (r *rig) prepareTrial(shape jobs.Shape) *trial {
	r.t.Helper()
	r.jobs++
	name := fmt.Sprintf("job-%d", r.jobs)
	shape.Dir = filepath.Join(r.dir, name)
	if err := os.Mkdir(shape.Dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	return &trial{r: r, shape: shape, name: name, done: map[taskKey]fleet.Task{}}
}

// follow begins to read the job's streams at a node.
func (x *trial) follow(at *fleet.Node) {
	x.r.t.Helper()
	c, err := at.Dial()
	if err != nil {
		x.r.t.Fatal(err)
	}
	x.ended = make(chan struct{})
	ctx, cancel := context.WithTimeout(x.r.t.Context(), faultyJobTime)
	ended := x.ended
	go func() { // ends with its time, at the latest
		defer close(ended)
		defer cancel()
		defer c.Close()
		x.state, x.failure, x.lost = c.Follow(ctx, x.id)
		x.at = time.Now()
	}()
}

// note remembers which tasks are finished, as a node knows it.
func (x *trial) note(at *fleet.Node) *fleet.Job {
	x.r.t.Helper()
	ctx, cancel := context.WithTimeout(x.r.t.Context(), 5*time.Second)
	defer cancel()
	j, err := at.Show(ctx, x.id)
	if err != nil {
		x.r.t.Logf("%s doesn't show %s: %v", at.Name, x.id, err)
		return nil
	}
	for _, s := range j.Stages {
		for _, task := range s.Tasks {
			key := taskKey{s.ID, task.Index}
			if _, known := x.done[key]; !known && task.State == "finished" {
				x.done[key] = task
			}
		}
	}
	return j
}

// again are the tasks that were seen finished and ran again later.
func (x *trial) again(end *fleet.Job) []string {
	var out []string
	for _, s := range end.Stages {
		for _, task := range s.Tasks {
			if was, ok := x.done[taskKey{s.ID, task.Index}]; ok && was.Attempt != task.Attempt {
				out = append(out, fmt.Sprintf("%s[%d] %s: attempt %d on %s, then %d on %s", s.ID, task.Index, s.Name,
					was.Attempt, was.TaskManager, task.Attempt, task.TaskManager))
			}
		}
	}
	slices.Sort(out)
	return out
}

// wait waits for the end as the follower sees it.
func (x *trial) wait() error {
	select {
	case <-x.ended:
	case <-time.After(faultyJobTime + 10*time.Second):
		return errors.New("the follower hangs")
	}
	switch {
	case x.lost != nil:
		return fmt.Errorf("job %s: the client's stream ended in state %s: %w", x.id, x.state, x.lost)
	case x.state != jobpb.JobState_DONE:
		return errors.Join(fmt.Errorf("job %s ended %s", x.id, x.state), x.failure)
	}
	return nil
}

// mustEnd waits for DONE and checks the result. It returns the job as the node
// shows it at its end, and what ran.
func (x *trial) mustEnd(at *fleet.Node) (*fleet.Job, jobs.Journal) {
	t := x.r.t
	t.Helper()
	if err := x.wait(); err != nil {
		t.Fatal(errors.Join(err, x.where()))
	}
	if err := x.shape.Check(); err != nil {
		t.Errorf("job %s: %v", x.id, err)
	}
	ran, err := jobs.ReadJournal(x.shape.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range jobs.Steps {
		if n := ran.Count(step); n < x.shape.Elements {
			t.Errorf("job %s: %s ran for %d elements of %d", x.id, step, n, x.shape.Elements)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var end *fleet.Job
	// A follower may hear of the end a moment later than the client.
	err = fleet.Await(ctx, 10*time.Second, at.Name+" shows the end of "+x.id, func() bool {
		j, err := at.Show(ctx, x.id)
		end = j
		return err == nil && j.State == "DONE"
	})
	if err != nil {
		t.Fatal(err)
	}
	return end, ran
}

// where tells how far a job is that doesn't end, as all nodes show it.
func (x *trial) where() error {
	var out []error
	ctx, cancel := context.WithTimeout(x.r.t.Context(), 10*time.Second)
	defer cancel()
	for _, n := range x.r.Nodes {
		if n.Kind == fleet.TaskManager || !n.Running() {
			continue
		}
		j, err := n.Show(ctx, x.id)
		if err != nil {
			out = append(out, fmt.Errorf("%s: %w", n.Name, err))
			continue
		}
		said := fmt.Sprintf("%s shows %s, %d restarts", n.Name, j.State, j.Restarts)
		for _, s := range j.Stages {
			said += fmt.Sprintf("; %s %s", s.ID, s.State)
			for _, task := range s.Tasks {
				said += fmt.Sprintf(" %d:%s/%d@%s", task.Index, task.State, task.Attempt, task.TaskManager)
			}
		}
		for _, f := range j.Failures {
			said += fmt.Sprintf("\n  failure %s %s[%d]/%d on %s: %s", f.Kind, f.Stage, f.Index, f.Attempt, f.TaskManager, f.Message)
		}
		out = append(out, errors.New(said))
	}
	ran, err := jobs.ReadJournal(x.shape.Dir)
	return errors.Join(append(out, err, errors.New(ran.Summary()))...)
}

// pause waits for some of the time that a fault lasts. It is no waiting for
// others: what comes of the fault is waited for by its signs.
func (r *rig) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.t.Context().Done():
	}
}

// within is a random time up to d.
func (r *rig) within(d time.Duration) time.Duration {
	return time.Duration(r.chance.Int64N(int64(d)))
}

// one is one of the nodes by chance, but not these.
func (r *rig) one(of []*fleet.Node, but ...*fleet.Node) *fleet.Node {
	left := slices.DeleteFunc(slices.Clone(of), func(n *fleet.Node) bool { return slices.Contains(but, n) })
	return left[r.chance.IntN(len(left))]
}

// fullOrQuick is how often something is done.
func fullOrQuick(full, fast int) int {
	if *quick {
		return fast
	}
	return full
}

// slow makes a host slower, by slowFactor, until stop is called.
func (r *rig) slow(n *fleet.Node) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		n.Slow(ctx, slowFactor)
	}()
	return func() {
		cancel()
		<-done
	}
}
