package schedule

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"

	"github.com/cockroachdb/datadriven"
)

// TestDecide reads what happens and prints what is decided. After an intended
// change run go test ./runner/schedule -rewrite, then read the diff as you
// would read code.
//
//	manager NAME slots=N [run=job/s1[0]#0@slot] [held=job/d1/0#0] [queue=job/s1#0]   a TaskManager joins
//	lose NAME                          it is lost
//	drain-manager NAME                 it wants no new tasks
//	idle NAME                          whether it can leave without being missed
//	known                              nobody is waited for any longer
//	job NAME [streaming] [priority=N] [parallelism=N] [restart=KIND] [attempts=N] [delay=D] …     a submission; the graph is the input
//	finish JOB TASK [dN=BYTES[/durable][/skew]] …
//	fail JOB TASK kind=KIND [msg=TEXT] [lost=(d1/0#0,…)]
//	bind JOB STAGE BOUNDS / unbind JOB STAGE MESSAGE
//	cancel JOB / drain JOB
//	at D                               the time is D after the start
//	restart                            the JobManager starts again from its records
//	state                              what the records add up to
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata/decide", func(t *testing.T, path string) {
		w := newWorld()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return w.run(t, d) })
	})
}

// A world is what the tests decide upon.
type world struct {
	state   *catalog.State
	seen    *Seen
	policy  Policy
	now     catalog.Instant
	records []catalog.Record
}

const start = catalog.Instant(1_000_000 * time.Second)

func newWorld() *world {
	return &world{state: catalog.NewState(), seen: NewSeen(), now: start}
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	case "state":
		return w.state.String() + expected(w.state)
	case "idle":
		return fmt.Sprintln(w.seen.Idle(w.state, d.CmdArgs[0].Key))
	}
	if err := w.happen(t, d); err != nil {
		d.Fatalf(t, "%v", err)
	}
	return w.decide()
}

// expected prints the TaskManagers that a new leader would wait for, if there
// is more than one.
func expected(s *catalog.State) string {
	if len(s.TaskManagers()) < 2 {
		return ""
	}
	var names []string
	for _, m := range s.TaskManagers() {
		names = append(names, m.Name)
	}
	return "expected: " + strings.Join(names, " ") + "\n"
}

func (w *world) decide() string {
	out := Decide(w.state, w.seen, w.policy, w.now)
	w.records = append(w.records, out.Records...)
	var b strings.Builder
	for _, r := range out.Records {
		fmt.Fprintf(&b, "%s\n", r)
	}
	for _, a := range out.Actions {
		fmt.Fprintf(&b, "  %s\n", a)
	}
	if out.WakeAt > 0 {
		fmt.Fprintf(&b, "  wake at %v\n", out.WakeAt.Sub(start))
	}
	return b.String()
}

func (w *world) happen(t *testing.T, d *datadriven.TestData) error {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "manager":
		return w.manager(t, d, name)
	case "lose":
		w.seen.LostManager(name, w.now)
	case "drain-manager":
		w.seen.Draining(name)
	case "known":
		w.seen.Known(w.now)
	case "policy":
		for _, arg := range d.CmdArgs {
			n, err := strconv.Atoi(arg.Vals[0])
			if err != nil {
				return err
			}
			switch arg.Key {
			case "target":
				w.policy.TargetBytes = int64(n)
			case "least":
				w.policy.LeastBytes = int64(n)
			case "bounds":
				w.policy.BoundsBytes = int64(n)
			case "groups":
				w.policy.KeyGroups = n
			case "spread":
				w.policy.SpreadGroups = n
			case "losses":
				w.policy.Losses = n
			case "history":
				w.policy.HistoryJobs = n
			}
		}
	case "job":
		return w.job(d, name)
	case "finish":
		return w.finish(d)
	case "fail":
		return w.fail(t, d)
	case "bind", "unbind":
		w.bind(d, name)
	case "cancel":
		w.seen.StopRequested(&catalog.StopRequested{Job: catalog.JobID(name), At: w.now, Mode: catalog.StopCancel})
	case "drain":
		w.seen.StopRequested(&catalog.StopRequested{Job: catalog.JobID(name), At: w.now, Mode: catalog.StopDrain})
	case "at":
		after, err := time.ParseDuration(name)
		w.now = start.Add(after)
		return err
	case "restart":
		w.state, w.seen = catalog.NewState(), NewSeen()
		for _, r := range w.records {
			if err := w.state.Apply(r); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("unknown command %s", d.Cmd)
	}
	return nil
}

func (w *world) manager(t *testing.T, d *datadriven.TestData, name string) error {
	var slots int
	d.ScanArgs(t, "slots", &slots)
	var runs []RunningTask
	var held []Held
	var queues []HeldQueue
	for _, arg := range d.CmdArgs[1:] {
		for _, v := range arg.Vals {
			switch arg.Key {
			case "run":
				job, rest, _ := strings.Cut(v, "/")
				id, slot, _ := strings.Cut(rest, "@")
				n, err := strconv.Atoi(slot)
				if err != nil {
					return err
				}
				runs = append(runs, RunningTask{catalog.JobID(job), w.taskID(job, id), n})
			case "held":
				job, rest, _ := strings.Cut(v, "/")
				l, err := parsePartition(rest)
				if err != nil {
					return err
				}
				held = append(held, Held{catalog.JobID(job), l.Dataset, []jobgraph.Partition{l.Partition}})
			case "queue":
				job, rest, _ := strings.Cut(v, "/")
				stage, generation, _ := strings.Cut(rest, "#")
				n, err := strconv.ParseUint(generation, 10, 32)
				if err != nil {
					return err
				}
				queues = append(queues, HeldQueue{catalog.JobID(job), jobgraph.StageID(stage), uint32(n)})
			}
		}
	}
	w.seen.Joined(name, slots, runs, held, queues)
	return nil
}

// taskID reads s1[0] or s1[0]#2; without an attempt it is the current one.
func (w *world) taskID(job, s string) catalog.TaskID {
	s, attempt, given := strings.Cut(s, "#")
	stage, index, _ := strings.Cut(strings.TrimSuffix(s, "]"), "[")
	id := catalog.TaskID{Stage: jobgraph.StageID(stage)}
	id.Index, _ = strconv.Atoi(index)
	if given {
		n, _ := strconv.Atoi(attempt)
		id.Attempt = uint32(n)
	} else if t := task(w.state.Job(catalog.JobID(job)), id); t != nil {
		id.Attempt = t.Attempt
	}
	return id
}

// parsePartition reads d1/0#0.
func parsePartition(s string) (l Lost, err error) {
	_, err = fmt.Sscanf(strings.NewReplacer("/", " ", "#", " ").Replace(s), "%s %d %d", &l.Dataset, &l.Index, &l.Attempt)
	return l, err
}

func (w *world) job(d *datadriven.TestData, name string) error {
	g, err := parseGraph(d.Input)
	if err != nil {
		return err
	}
	r := &catalog.JobAccepted{Job: catalog.JobID(name), Name: name, At: w.now, Plan: "p", Graph: g, KeyGroups: w.policy.WithDefaults().KeyGroups}
	r.Restart = w.policy.WithDefaults().Restart
	for _, arg := range d.CmdArgs[1:] {
		if arg.Key == "streaming" {
			g.Streaming = true
			continue
		}
		v := arg.Vals[0]
		n, _ := strconv.Atoi(v)
		span, _ := time.ParseDuration(v)
		switch arg.Key {
		case "priority":
			r.Priority = n
		case "parallelism":
			r.MaxParallelism = n
		case "streaming":
			g.Streaming = v == "true"
		case "restart":
			r.Restart = catalog.RestartStrategy{Kind: catalog.RestartKind(v)}
		case "attempts":
			r.Restart.Attempts = n
		case "delay":
			r.Restart.Delay = span
		case "max":
			r.Restart.MaxDelay = span
		case "interval":
			r.Restart.Interval = span
		case "factor":
			r.Restart.Factor = float64(n)
		}
	}
	w.seen.Accepted(r)
	return nil
}

// parseGraph reads lines: "s1 impulse out=d1", "s2 group in=d1 side=d2 out=d3 deterministic",
// "d1 key blocking", "r1 s1,s2 pointwise".
func parseGraph(text string) (*jobgraph.Graph, error) {
	g := &jobgraph.Graph{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0][0] {
		case 's':
			st := &jobgraph.Stage{ID: jobgraph.StageID(f[0]), Name: f[0], Root: jobgraph.RootKind(f[1])}
			for _, x := range f[2:] {
				k, v, _ := strings.Cut(x, "=")
				st.Deterministic = st.Deterministic || k == "deterministic"
				var ids []jobgraph.DatasetID
				for _, id := range strings.Split(v, ",") {
					ids = append(ids, jobgraph.DatasetID(id))
				}
				switch k {
				case "bind":
					st.Bind = v
				case "in":
					st.Inputs = ids
				case "side":
					st.SideInputs = ids
				case "out":
					st.Outputs = ids
				}
			}
			g.Stages = append(g.Stages, st)
		case 'd':
			g.Datasets = append(g.Datasets, &jobgraph.Dataset{ID: jobgraph.DatasetID(f[0]), Partitioning: jobgraph.Partitioning(f[1]), Exchange: jobgraph.Exchange(f[2])})
		case 'r':
			r := &jobgraph.Region{ID: jobgraph.RegionID(f[0]), Pointwise: len(f) > 2 && f[2] == "pointwise"}
			for _, id := range strings.Split(f[1], ",") {
				r.Stages = append(r.Stages, jobgraph.StageID(id))
			}
			g.Regions = append(g.Regions, r)
		default:
			return nil, fmt.Errorf("what is %q?", line)
		}
	}
	link(g)
	return g, nil
}

// link fills in the datasets' producers and consumers.
func link(g *jobgraph.Graph) {
	for _, st := range g.Stages {
		for _, id := range st.Outputs {
			g.Dataset(id).Producer = st.ID
		}
		for _, id := range append(append([]jobgraph.DatasetID(nil), st.Inputs...), st.SideInputs...) {
			d := g.Dataset(id)
			if n := len(d.Consumers); n == 0 || d.Consumers[n-1] != st.ID {
				d.Consumers = append(d.Consumers, st.ID)
			}
		}
	}
}

func (w *world) finish(d *datadriven.TestData) error {
	job := d.CmdArgs[0].Key
	id := w.taskID(job, d.CmdArgs[1].Key)
	r := &catalog.TaskFinished{Job: catalog.JobID(job), Task: id, Started: w.now, Ended: w.now}
	if ran := w.seen.running[runKey{r.Job, id}]; ran != nil {
		r.Started = ran.since
	}
	told := map[jobgraph.DatasetID]bool{}
	j := w.state.Job(r.Job)
	for _, arg := range d.CmdArgs[2:] {
		if len(arg.Vals) == 0 {
			continue
		}
		id := jobgraph.DatasetID(arg.Key)
		parts := strings.Split(arg.Vals[0], "/")
		o, err := output(j, id, parts)
		if err != nil {
			return err
		}
		r.Outputs, told[id] = append(r.Outputs, o), true
	}
	if d.HasArg("nothing") {
		r.Outputs = nil
	} else if st := j.StageAt(id.Stage); st >= 0 {
		for _, o := range j.Stages[st].Outputs {
			if !told[o.Dataset] {
				r.Outputs = append(r.Outputs, catalog.Output{Dataset: o.Dataset, Durable: catalog.OnDisk})
			}
		}
	}
	w.seen.Finished(r)
	return nil
}

// output reads BYTES[/durable][/skew]: with skew all bytes are in the first
// sub-partition, else they are spread evenly.
func output(j *catalog.Job, id jobgraph.DatasetID, parts []string) (catalog.Output, error) {
	o := catalog.Output{Dataset: id, Durable: catalog.OnDisk}
	n, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return o, err
	}
	subs := 1
	for _, c := range j.Stages[j.StageAt(j.Dataset(id).Producer)].Outputs {
		if c.Dataset == id {
			subs = c.Subpartitions
		}
	}
	bySub := make([]int64, subs)
	for i := range bySub {
		bySub[i] = n*int64(i+1)/int64(subs) - n*int64(i)/int64(subs)
	}
	for _, p := range parts[1:] {
		if p == "skew" {
			clear(bySub)
			bySub[0] = n
		} else {
			o.Durable = catalog.Durability(p)
		}
	}
	o.Bytes, o.Count, o.Sketch = n, n, catalog.SketchOf(bySub)
	return o, nil
}

func (w *world) fail(t *testing.T, d *datadriven.TestData) error {
	job := d.CmdArgs[0].Key
	f := catalog.Failure{Task: w.taskID(job, d.CmdArgs[1].Key), At: w.now, Message: "oops"}
	var kind string
	d.ScanArgs(t, "kind", &kind)
	if f.Kind = catalog.FailureKind(kind); kind == "lost" {
		f.Kind = catalog.FailureLost
	}
	var lost []Lost
	for _, arg := range d.CmdArgs[2:] {
		if arg.Key == "lost" {
			for _, v := range arg.Vals {
				l, err := parsePartition(v)
				if err != nil {
					return err
				}
				lost = append(lost, l)
			}
		}
	}
	w.seen.Failed(catalog.JobID(job), f, lost)
	return nil
}
