package sim

import (
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"
)

// unreachable is how long a reader tries to reach another TaskManager, unborn
// how long it waits there for what has not been begun: of tasks that are started
// together one may be at work before the other has been heard of.
const (
	unreachable = 2 * time.Second
	unborn      = 5 * time.Second
)

// An attempt is a task that runs: it reads its inputs one after another, works
// for a while, and writes its outputs all at once.
type attempt struct {
	schedule.TaskSpec
	m         *taskManager
	job       catalog.JobID
	slot      int
	life      int // of its TaskManager
	nonce     uint64
	began     catalog.Instant
	cancelled bool
	over      bool
	log       *pulls   // of a restriction queue
	got       []uint64 // elements, as they come out
	views     []uint64 // nonces of the partitions of side inputs
}

func (a *attempt) after(d time.Duration, f func()) {
	if a.m.slow > 1 {
		d = time.Duration(float64(d) * a.m.slow)
	}
	a.m.after(d, func() {
		if !a.over {
			f()
		}
	})
}

func (a *attempt) stage() *jobgraph.Stage { return a.m.c.jobs[a.job].graph.Stage(a.ID.Stage) }

func (a *attempt) run() {
	if a.stage().Root == jobgraph.RootRestrictions {
		a.readSides(0)
		return
	}
	a.read(0)
}

// read reads main input i and those after it.
func (a *attempt) read(i int) {
	if i == len(a.Inputs) {
		a.readSides(0)
		return
	}
	a.fetch(a.m, a.Inputs[i], a.m.w.Now+unreachable, func(parts []*part) {
		in := a.Inputs[i]
		for _, p := range parts {
			for _, sub := range p.subs[in.Lo:min(in.Hi, len(p.subs))] {
				a.take(in.Dataset, sub)
			}
		}
		a.after(a.m.w.Between(0, 200*time.Millisecond), func() { a.read(i + 1) })
	})
}

func (a *attempt) take(d jobgraph.DatasetID, elements []uint64) {
	for _, e := range elements {
		if out, kept := a.m.c.jobs[a.job].through(a.ID.Stage, d, e); kept {
			a.got = append(a.got, out)
		}
	}
}

func (a *attempt) readSides(i int) {
	if i < len(a.SideInputs) {
		a.fetch(a.m, a.SideInputs[i], a.m.w.Now+unreachable, func(parts []*part) {
			for _, p := range parts {
				a.views = append(a.views, p.nonce)
			}
			a.after(a.m.w.Between(0, 100*time.Millisecond), func() { a.readSides(i + 1) })
		})
		return
	}
	if a.stage().Root == jobgraph.RootRestrictions {
		a.enter(a.m.w.Now + unreachable)
		return
	}
	if a.stage().Root == jobgraph.RootImpulse {
		a.got = a.m.c.jobs[a.job].impulse(a.ID.Stage)
	}
	a.work()
}

func (a *attempt) work() {
	if a.m.c.w.Chance(a.m.c.failing) {
		kind := []catalog.FailureKind{catalog.FailureUser, catalog.FailureWorker, catalog.FailureRunner, catalog.FailureDisk}[a.m.w.Rand.IntN(4)]
		a.after(a.m.w.Between(0, time.Second), func() { a.fail(kind, nil) })
		return
	}
	a.after(a.m.w.Between(50*time.Millisecond, 1500*time.Millisecond), a.finish)
}

// fetch finds the partitions of an input and hands them on. by is who asks: the
// task's own TaskManager, or the one that keeps its queue.
func (a *attempt) fetch(by *taskManager, in schedule.Input, until time.Duration, then func([]*part)) {
	again := func() {
		a.after(150*time.Millisecond, func() { a.fetch(by, in, until, then) })
	}
	parts := make([]*part, len(in.Partitions))
	for i, p := range in.Partitions {
		at := a.m.name
		if in.At != nil {
			at = in.At[i]
		}
		var state answer
		parts[i], state = a.ask(by, at, partKey{a.job, in.Dataset, p})
		switch {
		case state == there:
		case state == soon:
			// It is being written; there is no end to waiting for it.
			a.after(100*time.Millisecond, func() { a.fetch(by, in, a.m.w.Now+unreachable, then) })
			return
		case state == silent && a.m.w.Now < until, state == later && a.m.w.Now < until-unreachable+unborn:
			again()
			return
		default:
			if state == silent {
				a.m.c.check.reportedLost(partKey{a.job, in.Dataset, p})
			}
			a.fail(catalog.FailurePartition, []schedule.Lost{{Dataset: in.Dataset, Partition: p}})
			return
		}
	}
	then(parts)
}

type answer int

const (
	there  answer = iota
	gone          // nobody has it
	soon          // its writer runs
	later         // its writer has not begun, or has gone
	silent        // no answer
)

// ask looks for a partition where it is said to be.
func (a *attempt) ask(by *taskManager, at string, k partKey) (*part, answer) {
	c := a.m.c
	if at == "" {
		if p := c.blob[k]; p != nil {
			return p, there
		}
		return nil, gone
	}
	m := c.manager(at)
	if !m.awake() || !c.net.both(by.name, at) {
		return nil, silent
	}
	if p := m.held[k]; p != nil {
		return p, there
	}
	producer := catalog.TaskID{Stage: c.jobs[k.job].graph.Dataset(k.dataset).Producer, Index: k.Index, Attempt: k.Attempt}
	pipelined := c.jobs[k.job].graph.Dataset(k.dataset).Exchange == jobgraph.Pipelined
	if t := m.find(k.job, producer); pipelined && t != nil {
		return nil, soon
	}
	if !pipelined {
		return nil, gone
	}
	if p := c.blob[k]; p != nil {
		return p, there
	}
	if slices.ContainsFunc(m.ended, func(r report) bool { return r.job == k.job && r.id == producer }) {
		return nil, gone
	}
	return nil, later
}

// leave ends the attempt.
func (a *attempt) leave() {
	a.over = true
	a.m.slots[a.slot] = slices.DeleteFunc(a.m.slots[a.slot], func(t *attempt) bool { return t == a })
}

func (a *attempt) fail(kind catalog.FailureKind, lost []schedule.Lost) {
	if a.over {
		return
	}
	if a.cancelled {
		kind, lost = catalog.FailureLost, nil
	}
	a.leave()
	a.m.c.trace("%s: %s %s fails: %s %v", a.m.name, a.job, a.ID, kind, lost)
	a.m.say(report{job: a.job, id: a.ID, failure: catalog.Failure{Kind: kind, Task: a.ID, Message: "it failed"}, lost: lost})
}

// fromInput is the same whenever an attempt has read the same, in whatever
// order.
func (a *attempt) fromInput() (sum uint64) {
	for _, e := range a.got {
		sum += mix(e, 2)
	}
	for i, v := range a.views {
		sum += mix(v, uint64(i))
	}
	return sum
}

// finish writes the outputs and tells of them.
func (a *attempt) finish() {
	c := a.m.c
	r := &catalog.TaskFinished{Job: a.job, Task: a.ID, Started: a.began}
	st := a.stage()
	for _, o := range a.Outputs {
		p := &part{subs: make([][]uint64, o.Subpartitions), nonce: a.nonce, durable: a.m.durable}
		if st.Deterministic {
			p.nonce = a.fromInput()
		}
		bySub := make([]int64, o.Subpartitions)
		for _, e := range a.got {
			// Keys are random: another attempt spreads the elements otherwise.
			key := mix(e, a.nonce)
			if st.Deterministic {
				key = mix(e, 1)
			}
			sub := int(key % uint64(o.Subpartitions))
			p.subs[sub] = append(p.subs[sub], e)
			bySub[sub] += 10
		}
		k := partKey{a.job, o.Dataset, jobgraph.Partition{Index: a.ID.Index, Attempt: a.ID.Attempt}}
		if p.durable == catalog.InBlob {
			c.blob[k] = p
		} else {
			a.m.held[k] = p
		}
		r.Outputs = append(r.Outputs, catalog.Output{Dataset: o.Dataset, Bytes: int64(10 * len(a.got)), Count: int64(len(a.got)), Sketch: catalog.SketchOf(bySub), Durable: p.durable})
	}
	c.trace("%s: %s %s is done", a.m.name, a.job, a.ID)
	c.check.finished(a)
	a.leave()
	a.m.say(report{job: a.job, id: a.ID, finished: r})
}
