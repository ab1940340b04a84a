package sim

import (
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"
)

// checks watch the world from outside and fail it as soon as something is wrong.
type checks struct {
	c       *cluster
	entries []uint64       // terms of the entries that count
	truth   *catalog.State // their fold
	starts  map[attemptKey]bool
	results map[attemptKey]*attempt // those that ended well
	ended   map[attemptKey]time.Duration
	missed  map[string]time.Duration // TaskManagers: when they were last given up
	lost    map[partKey]bool         // partitions that were told to be lost, or freed
	reruns  int                      // finished tasks that were run again
	resets  int
	doubled int
}

type attemptKey struct {
	job catalog.JobID
	id  catalog.TaskID
}

func newChecks(c *cluster) *checks {
	return &checks{
		c: c, entries: make([]uint64, 1), truth: catalog.NewState(), starts: map[attemptKey]bool{},
		results: map[attemptKey]*attempt{}, ended: map[attemptKey]time.Duration{}, missed: map[string]time.Duration{}, lost: map[partKey]bool{},
	}
}

// started checks that no attempt is ever started twice, wherever.
func (k *checks) started(a *attempt) {
	key := attemptKey{a.job, a.ID}
	must(!k.starts[key], "%s %s is started twice", a.job, a.ID)
	k.starts[key] = true
	k.c.trace("%s: %s %s runs", a.m.name, a.job, a.ID)
}

func (k *checks) finished(a *attempt) {
	key := attemptKey{a.job, a.ID}
	must(k.results[key] == nil, "%s %s has ended twice", a.job, a.ID)
	k.results[key], k.ended[key] = a, k.c.w.Now
}

func (k *checks) reportedLost(p partKey) { k.lost[p] = true }

// released notes what was freed, whether or not its TaskManager has heard of it.
func (k *checks) released(a schedule.Release) {
	for _, p := range a.Partitions {
		k.lost[partKey{a.Job, a.Dataset, p}] = true
	}
}

// gaveUp notes that someone has taken a TaskManager to be lost, or that it is.
func (k *checks) gaveUp(name string) { k.missed[name] = k.c.w.Now }

// committed is told of each entry by each node that applies it: all must tell
// one story.
func (k *checks) committed(index int, e entry) {
	if index < len(k.entries) {
		must(k.entries[index] == e.term, "entry %d is of term %d here and of %d elsewhere", index, e.term, k.entries[index])
		return
	}
	must(index == len(k.entries), "entry %d is skipped", len(k.entries))
	k.entries = append(k.entries, e.term)
	for _, r := range e.records {
		k.c.trace("counts: %s", r)
		if reset, ok := r.(*catalog.TasksReset); ok {
			k.reset(reset)
		}
		if _, ok := r.(*catalog.TaskDoubled); ok {
			k.doubled++
		}
		if l, ok := r.(*catalog.TaskManagerLost); ok {
			k.gaveUp(l.Name)
		}
		must(k.truth.Apply(r) == nil, "%s doesn't fit", r)
	}
}

// reset checks that what runs again must.
func (k *checks) reset(r *catalog.TasksReset) {
	k.resets++
	j := k.truth.Job(r.Job)
	again := map[jobgraph.StageID][]bool{} // for look-ups
	for _, x := range r.Tasks {
		if again[x.Stage] == nil {
			again[x.Stage] = make([]bool, len(j.Stages[j.StageAt(x.Stage)].Tasks))
		}
		for i := x.Lo; i < x.Hi; i++ {
			again[x.Stage][i] = true
		}
	}
	quiet := k.c.kind.quiet && !slices.ContainsFunc(r.Tasks, func(x catalog.TaskRange) bool { return k.halfBegun(j, j.StageAt(x.Stage)) })
	for _, x := range r.Tasks {
		at := j.StageAt(x.Stage)
		for i := x.Lo; i < x.Hi; i++ {
			t := &j.Stages[at].Tasks[i]
			id := catalog.TaskID{Stage: x.Stage, Index: i, Attempt: t.Attempt}
			if quiet {
				must(t.Done == nil, "%s %s has finished and runs again, and nothing was lost: %s", j.ID, id, r)
				must(!k.live(j.ID, id), "%s %s is at work and runs again, and nothing was lost: %s", j.ID, id, r)
			}
			if t.Done != nil {
				k.reruns++
				must(k.mustRerun(j, at, i, again), "%s %s has finished and runs again without need: %s", j.ID, id, r)
			}
		}
	}
}

// halfBegun reports whether a leader died while it started the stage's region:
// not all tasks that run at once were started, or its queue was not begun.
// Nothing else can be done then than to begin again.
func (k *checks) halfBegun(j *catalog.Job, stage int) bool {
	region := j.Graph.Regions[j.RegionOf(stage)]
	for _, id := range region.Stages {
		st := j.Stages[j.StageAt(id)]
		if j.Graph.Stage(id).Root == jobgraph.RootRestrictions && !slices.ContainsFunc(k.c.managers, func(m *taskManager) bool {
			return m.queues[queueKey{j.ID, id, st.Queue}] != nil
		}) {
			return true
		}
		for i := range st.Tasks {
			if !region.Pointwise && !k.starts[attemptKey{j.ID, catalog.TaskID{Stage: id, Index: i, Attempt: st.Tasks[i].Attempt}}] {
				return true
			}
		}
	}
	return false
}

// live reports whether the attempt runs, or has ended and is about to say so.
func (k *checks) live(job catalog.JobID, id catalog.TaskID) bool {
	for _, m := range k.c.managers {
		if m.alive && (m.find(job, id) != nil || slices.ContainsFunc(m.ended, func(r report) bool { return r.job == job && r.id == id })) {
			return true
		}
	}
	return false
}

// mustRerun reports whether there is a reason to run a finished task again:
// what it wrote is gone or was thought to be, what it read is made again, or it
// belongs to what does.
func (k *checks) mustRerun(j *catalog.Job, stage, index int, again map[jobgraph.StageID][]bool) bool {
	st := j.Graph.Stages[stage]
	t := &j.Stages[stage].Tasks[index]
	key := attemptKey{j.ID, catalog.TaskID{Stage: st.ID, Index: index, Attempt: t.Attempt}}
	for _, o := range t.Done.Outputs {
		p := partKey{j.ID, o.Dataset, jobgraph.Partition{Index: index, Attempt: t.Attempt}}
		if k.lost[p] || k.c.holds(t.Done.TaskManager, p) == nil {
			return true
		}
		if at, missed := k.missed[t.Done.TaskManager]; missed && at >= k.ended[key] && o.Durable != catalog.InBlob {
			return true
		}
	}
	for _, d := range slices.Concat(st.Inputs, st.SideInputs) {
		if again[j.Dataset(d).Producer] != nil {
			return true
		}
	}
	region := j.Graph.Regions[j.RegionOf(stage)]
	queue := false
	for _, id := range region.Stages {
		queue = queue || j.Graph.Stage(id).Root == jobgraph.RootRestrictions
	}
	for _, id := range region.Stages {
		for i, is := range again[id] {
			if is && (id != st.ID || i != index) && (i == index || !region.Pointwise || queue) {
				return true
			}
		}
	}
	return false
}

// over checks the whole when all is done.
func (k *checks) over() {
	hash := k.truth.Hash()
	for _, n := range k.c.raft {
		must(n.state.Hash() == hash, "%s tells another story than the log", n.name)
	}
	for _, j := range k.c.order {
		got := k.truth.Job(j.id)
		must(got != nil, "job %s was accepted and is forgotten", j.id)
		switch {
		case j.stopped:
			must(got.State == catalog.Cancelled, "job %s was cancelled and is %s", j.id, got.State)
		case got.State == catalog.Cancelled:
			must(j.stopAsked, "job %s is cancelled, and nobody asked for that", j.id)
		default:
			must(got.State == catalog.Done, "job %s is %s: %v", j.id, got.State, got.Failure)
		}
		if got.State == catalog.Done {
			k.result(j, got)
		}
	}
	for _, m := range k.c.managers {
		must(len(m.held) == 0, "%s still holds %v", m.name, m.heldKeys())
		must(len(m.queues) == 0, "%s still keeps %v", m.name, m.queues)
		for i, slot := range m.slots {
			must(len(slot) == 0, "%s still runs %v in slot %d", m.name, slot, i)
		}
	}
	must(len(k.c.blob) == 0, "the object store still holds %v", k.c.blob)
}

// result checks that each stage has made of its input what it should, each
// element once, and that all its tasks have seen the same side inputs.
func (k *checks) result(j *job, got *catalog.Job) {
	for s, st := range got.Stages {
		var all []uint64
		var views []uint64
		for i := range st.Tasks {
			key := attemptKey{j.id, catalog.TaskID{Stage: st.Stage, Index: i, Attempt: st.Tasks[i].Attempt}}
			a := k.results[key]
			must(a != nil, "%s %s counts as done and never ended", j.id, key.id)
			all = append(all, a.got...)
			if views == nil {
				views = a.views
			}
			must(slices.Equal(views, a.views), "tasks of stage %s of job %s have seen different side inputs", st.Stage, j.id)
		}
		slices.Sort(all)
		must(slices.Equal(all, j.want[st.Stage]), "stage %s of job %s has made %d elements, want %d: %s", got.Graph.Stages[s].ID, j.id, len(all), len(j.want[st.Stage]), difference(all, j.want[st.Stage]))
	}
}

// difference says what is lost and what is there too often.
func difference(got, want []uint64) string {
	lost, doubled := 0, 0
	for len(got) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0 || len(got) > 0 && got[0] < want[0]:
			doubled, got = doubled+1, got[1:]
		case len(got) == 0 || want[0] < got[0]:
			lost, want = lost+1, want[1:]
		default:
			got, want = got[1:], want[1:]
		}
	}
	return plural(lost, "lost") + ", " + plural(doubled, "doubled or strange")
}
