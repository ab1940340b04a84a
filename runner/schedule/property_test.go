package schedule

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"

	"pgregory.net/rapid"
)

// A sim runs random jobs on simulated TaskManagers, which fail in all ways,
// and checks from outside what a user relies on.
type sim struct {
	t        *rapid.T
	world    world
	shadow   *catalog.State // the fold of the records as the journal gives them back
	managers map[string]map[int][]simTask
	slots    map[string]int
	held     map[heldKey]string                // partition → manager, or "" for the object store
	queues   map[HeldQueue]string              // → manager
	read     map[runKey][]Input                // what an attempt was told to read
	finished map[runKey]bool                   // attempts that ended well
	starts   map[runKey]int                    // how often an attempt was started
	jobs     map[catalog.JobID]*jobgraph.Graph // submitted
	stopped  map[catalog.JobID]bool            // asked to stop
	faults   bool
}

type simTask struct{ runKey }

type heldKey struct {
	job     catalog.JobID
	dataset jobgraph.DatasetID
	jobgraph.Partition
}

// TestJobsEndRight loses tasks, partitions, TaskManagers and the JobManager
// while random jobs run. When that stops, every job must end with each of its
// readers having read exactly what the last attempts of its producers wrote.
func TestJobsEndRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { runSim(t, true) })
}

// TestNothingRunsTwice runs random jobs without faults: every task runs once.
func TestNothingRunsTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { runSim(t, false) })
}

func runSim(t *rapid.T, faults bool) {
	s := &sim{
		t: t, world: *newWorld(), shadow: catalog.NewState(), faults: faults,
		managers: map[string]map[int][]simTask{}, slots: map[string]int{}, held: map[heldKey]string{}, queues: map[HeldQueue]string{},
		read: map[runKey][]Input{}, finished: map[runKey]bool{}, starts: map[runKey]int{}, jobs: map[catalog.JobID]*jobgraph.Graph{},
		stopped: map[catalog.JobID]bool{},
	}
	s.world.policy = Policy{TargetBytes: 100, LeastBytes: 10, TasksPerSlot: 3, KeyGroups: 8, SpreadGroups: 5, Losses: 1 << 30, SlowAfter: -1}
	if faults {
		s.world.policy.SlowAfter = rapid.SampledFrom([]time.Duration{-1, time.Second}).Draw(t, "slow after")
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "managers") {
		s.join(fmt.Sprintf("m%d", i), rapid.IntRange(1, 3).Draw(t, "slots"))
	}
	s.world.seen.Known(s.world.now)
	for i := range rapid.IntRange(1, 3).Draw(t, "jobs") {
		s.submit(catalog.JobID(fmt.Sprintf("j%d", i)))
	}
	s.decide()
	if faults {
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			s.step()
		}
	}
	s.finishAll()
	s.check()
}

func (s *sim) submit(id catalog.JobID) {
	g := drawGraph(s.t)
	s.jobs[id] = g
	s.world.seen.Accepted(&catalog.JobAccepted{
		Job: id, At: s.world.now, Plan: "p", Graph: g, KeyGroups: s.world.policy.KeyGroups,
		Priority: rapid.IntRange(-1, 1).Draw(s.t, "priority"),
		Restart:  catalog.RestartStrategy{Kind: catalog.RestartExponential, Delay: time.Second},
	})
}

// drawGraph makes a graph whose regions are runs of neighbouring stages.
func drawGraph(t *rapid.T) *jobgraph.Graph {
	g := &jobgraph.Graph{}
	var region *jobgraph.Region
	for i := range rapid.IntRange(1, 6).Draw(t, "stages") {
		st := &jobgraph.Stage{ID: jobgraph.StageID(fmt.Sprintf("s%d", i)), Root: jobgraph.RootImpulse}
		begin := len(g.Stages) // stages before it are of earlier regions
		if region != nil && rapid.Bool().Draw(t, "pipelined") {
			begin = len(g.Stages) - len(region.Stages)
			from := g.Stages[rapid.IntRange(begin, len(g.Stages)-1).Draw(t, "from")]
			how := rapid.SampledFrom([]jobgraph.Partitioning{jobgraph.Forward, jobgraph.Forward, jobgraph.ByKey, jobgraph.Spread}).Draw(t, "how")
			region.Pointwise = region.Pointwise && how == jobgraph.Forward
			st.Root = jobgraph.RootRead
			connect(g, from, st, how, jobgraph.Pipelined, false)
		} else {
			region = &jobgraph.Region{ID: jobgraph.RegionID(fmt.Sprintf("r%d", i)), Pointwise: true}
			g.Regions = append(g.Regions, region)
		}
		region.Stages = append(region.Stages, st.ID)
		for range rapid.IntRange(0, 2).Draw(t, "more") {
			if begin == 0 {
				break
			}
			from := g.Stages[rapid.IntRange(0, begin-1).Draw(t, "from")]
			if rapid.IntRange(0, 3).Draw(t, "side") == 0 {
				connect(g, from, st, jobgraph.Whole, jobgraph.Blocking, true)
				continue
			}
			if st.Root == jobgraph.RootImpulse {
				st.Root = rapid.SampledFrom([]jobgraph.RootKind{jobgraph.RootGroup, jobgraph.RootRead, jobgraph.RootRestrictions}).Draw(t, "root")
			}
			how := rapid.SampledFrom([]jobgraph.Partitioning{jobgraph.Forward, jobgraph.ByKey, jobgraph.Spread}).Draw(t, "how")
			connect(g, from, st, how, jobgraph.Blocking, false)
		}
		g.Stages = append(g.Stages, st)
	}
	link(g)
	return g
}

func connect(g *jobgraph.Graph, from, to *jobgraph.Stage, how jobgraph.Partitioning, ex jobgraph.Exchange, side bool) {
	d := &jobgraph.Dataset{ID: jobgraph.DatasetID(fmt.Sprintf("d%d", len(g.Datasets))), Partitioning: how, Exchange: ex}
	g.Datasets = append(g.Datasets, d)
	from.Outputs = append(from.Outputs, d.ID)
	if side {
		to.SideInputs = append(to.SideInputs, d.ID)
	} else {
		to.Inputs = append(to.Inputs, d.ID)
	}
}

func (s *sim) join(name string, slots int) {
	s.managers[name], s.slots[name] = map[int][]simTask{}, slots
	s.world.seen.Joined(name, slots, nil, nil, nil)
}

// decide lets the decider decide, checks what it wants and does it.
func (s *sim) decide() {
	w := &s.world
	out := Decide(w.state, w.seen, w.policy, w.now)
	for _, r := range out.Records {
		data, err := catalog.Encode(r)
		s.must(err == nil, "encode %s: %v", r, err)
		back, err := catalog.Decode(data)
		s.must(err == nil, "decode %s: %v", r, err)
		err = s.shadow.Apply(back)
		s.must(err == nil, "fold %s: %v", r, err)
		w.records = append(w.records, back)
	}
	for _, a := range out.Actions {
		switch a := a.(type) {
		case Start:
			s.start(a)
		case Cancel:
			for _, id := range a.Tasks {
				if s.faults && rapid.Bool().Draw(s.t, "slow to stop") {
					continue // it will end later, well even
				}
				if s.end(runKey{a.Job, id}) {
					w.seen.Failed(a.Job, catalog.Failure{Kind: catalog.FailureLost, Task: id, At: w.now}, nil)
				}
			}
		case Release:
			for _, p := range a.Partitions {
				delete(s.held, heldKey{a.Job, a.Dataset, p})
			}
		case ReleaseJob:
			maps.DeleteFunc(s.held, func(k heldKey, _ string) bool { return k.job == a.Job })
		}
	}
	if w.seen.Pending() {
		s.decide()
		return
	}
	s.checkFreed()
}

func (s *sim) start(a Start) {
	m := s.managers[a.TaskManager]
	s.must(m != nil && a.Slot < s.slots[a.TaskManager], "%s: no such slot", a)
	s.must(len(m[a.Slot]) == 0, "%s: the slot holds %v", a, m[a.Slot])
	g := s.jobs[a.Job]
	for _, t := range a.Tasks {
		key := runKey{a.Job, t.ID}
		s.starts[key]++
		s.must(s.starts[key] == 1, "%v was started twice", key)
		for _, r := range s.running() {
			same := r.job == a.Job && r.id.Stage == t.ID.Stage && r.id.Index == t.ID.Index
			s.must(!same || s.second(a.Job, t.ID) && r.manager != a.TaskManager, "%v was started beside %v", key, r.runKey)
		}
		fed := s.checkQueue(a, t)
		for _, in := range append(slices.Clone(t.Inputs), t.SideInputs...) {
			if g.Dataset(in.Dataset).Exchange == jobgraph.Pipelined {
				continue
			}
			for i, p := range in.Partitions {
				at, there := s.held[heldKey{a.Job, in.Dataset, p}]
				if fed && !there && slices.ContainsFunc(t.Inputs, func(i Input) bool { return i.Dataset == in.Dataset }) {
					continue // its queue may have read all of it
				}
				s.must(there, "%v reads %s/%d#%d, which is not there", key, in.Dataset, p.Index, p.Attempt)
				told := a.TaskManager
				if in.At != nil {
					told = in.At[i]
				}
				s.must(told == at, "%v is to read %s/%d#%d at %s, and it is at %s", key, in.Dataset, p.Index, p.Attempt, told, at)
			}
		}
		s.read[key] = append(slices.Clone(t.Inputs), t.SideInputs...)
		m[a.Slot] = append(m[a.Slot], simTask{key})
	}
}

// second reports whether the attempt is one that was let run beside another.
func (s *sim) second(job catalog.JobID, id catalog.TaskID) bool {
	t := task(s.world.state.Job(job), id)
	return t != nil && t.Second > 0 && t.Second == id.Attempt
}

// end takes a task from where it runs.
func (s *sim) end(k runKey) bool {
	for _, m := range s.managers {
		for slot, tasks := range m {
			if i := slices.Index(tasks, simTask{k}); i >= 0 {
				m[slot] = slices.Delete(tasks, i, i+1)
				return true
			}
		}
	}
	return false
}

type where struct {
	runKey
	manager string
}

// running lists what runs, in a fixed order.
func (s *sim) running() []where {
	var all []where
	for _, name := range slices.Sorted(maps.Keys(s.managers)) {
		for _, slot := range slices.Sorted(maps.Keys(s.managers[name])) {
			for _, t := range s.managers[name][slot] {
				all = append(all, where{t.runKey, name})
			}
		}
	}
	return all
}

// step lets one random thing happen.
func (s *sim) step() {
	w := &s.world
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 3).Draw(s.t, "seconds")) * time.Second)
	running := s.running()
	what := rapid.IntRange(0, 10).Draw(s.t, "what")
	switch {
	case what <= 4 && len(running) > 0:
		s.finish(running[rapid.IntRange(0, len(running)-1).Draw(s.t, "task")])
	case what == 5 && len(running) > 0:
		k := running[rapid.IntRange(0, len(running)-1).Draw(s.t, "task")]
		s.end(k.runKey)
		w.seen.Failed(k.job, catalog.Failure{Kind: catalog.FailureUser, Task: k.id, At: w.now, Message: "oops"}, nil)
	case what == 6 && len(running) > 0:
		s.losePartition(running[rapid.IntRange(0, len(running)-1).Draw(s.t, "task")])
	case what == 7:
		names := slices.Sorted(maps.Keys(s.managers))
		name := rapid.SampledFrom(names).Draw(s.t, "manager")
		s.vanish(name)
		w.seen.LostManager(name, w.now)
		if rapid.Bool().Draw(s.t, "decide between") {
			s.decide()
		}
		s.join(name, rapid.IntRange(1, 3).Draw(s.t, "slots"))
	case what == 8:
		s.restart(rapid.Bool().Draw(s.t, "with its TaskManagers"))
	case what == 9:
		s.again(rapid.SampledFrom(slices.Sorted(maps.Keys(s.managers))).Draw(s.t, "manager"))
	case what == 10:
		s.stop(rapid.SampledFrom(slices.Sorted(maps.Keys(s.jobs))).Draw(s.t, "job"))
	}
	s.decide()
}

// stop asks for a job's end, if there is still one to be had.
func (s *sim) stop(id catalog.JobID) {
	if j := s.world.state.Job(id); j.State.Terminal() {
		return
	}
	s.stopped[id] = true
	s.world.seen.StopRequested(&catalog.StopRequested{Job: id, At: s.world.now, Mode: catalog.StopCancel})
}

func (s *sim) vanish(name string) {
	delete(s.managers, name)
	maps.DeleteFunc(s.held, func(_ heldKey, m string) bool { return m == name })
	maps.DeleteFunc(s.queues, func(_ HeldQueue, m string) bool { return m == name })
}

// losePartition lets a running task find that something it reads is gone.
func (s *sim) losePartition(k where) {
	if j := s.world.state.Job(k.job); j.State.Terminal() || j.State == catalog.Cancelling {
		return
	} else if t := task(j, k.id); t == nil || t.Attempt != k.id.Attempt {
		return // it is to stop, and nobody listens to it any more
	}
	for _, in := range s.read[k.runKey] {
		for _, p := range in.Partitions {
			key := heldKey{k.job, in.Dataset, p}
			if _, there := s.held[key]; !there || s.jobs[k.job].Dataset(in.Dataset).Exchange == jobgraph.Pipelined {
				continue
			}
			delete(s.held, key)
			s.end(k.runKey)
			s.world.seen.Failed(k.job, catalog.Failure{Kind: catalog.FailurePartition, Task: k.id, At: s.world.now}, []Lost{{in.Dataset, p}})
			return
		}
	}
}

// restart begins again from the records, with the TaskManagers or without.
func (s *sim) restart(withAll bool) {
	w := &s.world
	w.state, w.seen = catalog.NewState(), NewSeen()
	for _, r := range w.records {
		s.must(w.state.Apply(r) == nil, "replay %s", r)
	}
	if rapid.Bool().Draw(s.t, "from a snapshot") {
		again := catalog.NewState()
		for r := range w.state.Snapshot() {
			s.must(again.Apply(r) == nil, "restore %s", r)
		}
		s.must(again.Hash() == w.state.Hash(), "the snapshot restores\n%s\nof\n%s", again, w.state)
		w.state = again
	}
	for _, name := range slices.Sorted(maps.Keys(s.managers)) {
		if !withAll {
			s.vanish(name)
			s.join(name, s.slots[name])
			continue
		}
		s.again(name)
	}
	w.seen.Known(w.now)
}

// again has a TaskManager tell what it has, whether or not that is known.
func (s *sim) again(name string) {
	var runs []RunningTask
	for _, slot := range slices.Sorted(maps.Keys(s.managers[name])) {
		for _, t := range s.managers[name][slot] {
			runs = append(runs, RunningTask{t.job, t.id, slot})
		}
	}
	var held []Held
	for k, m := range s.held {
		if m == name {
			held = append(held, Held{k.job, k.dataset, []jobgraph.Partition{k.Partition}})
		}
	}
	var queues []HeldQueue
	for q, m := range s.queues {
		if m == name {
			queues = append(queues, q)
		}
	}
	s.world.seen.Joined(name, s.slots[name], runs, held, queues)
}

func (s *sim) finish(k where) {
	r := &catalog.TaskFinished{Job: k.job, Task: k.id, TaskManager: k.manager, Ended: s.world.now}
	if at := s.world.seen.running[k.runKey]; at != nil {
		r.Started = at.since
	}
	for _, id := range s.jobs[k.job].Stage(k.id.Stage).Outputs {
		n := rapid.Int64Range(0, 200).Draw(s.t, "bytes")
		durable, at := catalog.OnDisk, k.manager
		if s.jobs[k.job].Dataset(id).Exchange == jobgraph.Blocking && s.faults && rapid.Bool().Draw(s.t, "in the object store") {
			durable, at = catalog.InBlob, ""
		}
		r.Outputs = append(r.Outputs, catalog.Output{Dataset: id, Bytes: n, Sketch: catalog.SketchOf([]int64{n / 2, 0, n / 2}), Durable: durable})
		s.held[heldKey{k.job, id, jobgraph.Partition{Index: k.id.Index, Attempt: k.id.Attempt}}] = at
	}
	s.end(k.runKey)
	s.finished[k.runKey] = true
	s.world.seen.Finished(r)
}

// finishAll lets everything go well until nothing runs.
func (s *sim) finishAll() {
	for round := 0; ; round++ {
		s.must(round < 10_000, "jobs don't end:\n%s", s.world.state)
		running := s.running()
		if len(running) > 0 {
			s.finish(running[0])
		} else if len(s.world.state.Active()) == 0 {
			return
		} else {
			s.world.now = s.world.now.Add(time.Hour) // whatever waits, waits no more
		}
		s.decide()
		s.must(len(s.running()) > 0 || len(s.world.state.Active()) == 0 || round < 9_000, "nothing runs:\n%s", s.world.state)
	}
}

func (s *sim) must(ok bool, format string, args ...any) {
	s.t.Helper()
	if !ok {
		s.t.Fatalf(format, args...)
	}
}
