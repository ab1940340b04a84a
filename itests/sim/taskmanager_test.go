package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
	"trestle/runner/schedule"
)

// A taskManager runs modelled tasks in its slots.
type taskManager struct {
	*process
	c       *cluster
	slots   [][]*attempt
	durable catalog.Durability // of what its tasks write
	slow    float64

	term     uint64 // the greatest that it has seen
	session  *session
	reports  *pipe
	ended    []report // whose jobs have not been released
	draining bool

	held   map[partKey]*part // for look-ups
	queues map[queueKey]*queue
}

type partKey struct {
	job     catalog.JobID
	dataset jobgraph.DatasetID
	jobgraph.Partition
}

// A part is what one attempt wrote of one dataset.
type part struct {
	subs    [][]uint64
	nonce   uint64
	durable catalog.Durability
}

// A report is the end of a task, or that the TaskManager drains.
type report struct {
	job      catalog.JobID
	id       catalog.TaskID
	finished *catalog.TaskFinished
	failure  catalog.Failure
	lost     []schedule.Lost
	draining bool
}

type inventory struct {
	running  []schedule.RunningTask
	held     []schedule.Held
	queues   []schedule.HeldQueue
	draining bool
}

func (i inventory) String() string {
	return fmt.Sprintf("runs %v, holds %v, keeps %v", i.running, i.held, i.queues)
}

// begin starts the process, on what its disk has kept.
func (m *taskManager) begin(disk bool) {
	m.alive, m.life, m.frozen = true, m.life+1, 0
	m.term, m.session, m.reports, m.ended, m.draining = 0, nil, nil, nil, false
	for i := range m.slots {
		m.slots[i] = nil
	}
	for _, k := range m.heldKeys() {
		if !disk || m.held[k].durable != catalog.OnDisk {
			delete(m.held, k)
		}
	}
	m.queues = map[queueKey]*queue{}
	m.after(m.w.Between(0, 200*time.Millisecond), m.beat)
}

func (m *taskManager) heldKeys() []partKey {
	keys := make([]partKey, 0, len(m.held))
	for k := range m.held {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b partKey) int {
		return cmp.Or(cmp.Compare(a.job, b.job), cmp.Compare(a.dataset, b.dataset), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Attempt, b.Attempt))
	})
	return keys
}

func (m *taskManager) kill() {
	m.c.trace("%s is killed", m.name)
	m.alive = false
}

// beat tells all JobManagers that it lives.
func (m *taskManager) beat() {
	m.after(500*time.Millisecond, m.beat)
	for _, n := range m.c.raft {
		life, has := m.life, m.session
		m.c.net.send(m.name, n.name, func() {
			n.hear(func() {
				if n.leads != nil {
					n.leads.beat(m, life, has)
				}
			})
		})
	}
}

// welcome begins a session, unless it is that of a leader of old.
func (m *taskManager) welcome(s *session, term uint64) {
	if term < m.term || s.life != m.life || s == m.session || s.over ||
		m.session != nil && m.session.l == s.l && s.id < m.session.id {
		return
	}
	m.term, m.session = term, s
	m.reports = newPipe(m.c.net, m.process, s.l.n.process, func() bool { return !s.over && s.l.leads() })
	has := m.inventory()
	m.reports.push(func() { s.l.joins(s, has) })
	for _, r := range m.ended {
		m.reports.push(func() { s.l.reported(s, r) })
	}
}

func (m *taskManager) inventory() inventory {
	has := inventory{draining: m.draining}
	for i, slot := range m.slots {
		for _, a := range slot {
			has.running = append(has.running, schedule.RunningTask{Job: a.job, ID: a.ID, Slot: i})
		}
	}
	for _, r := range m.ended {
		has.running = append(has.running, schedule.RunningTask{Job: r.job, ID: r.id, Slot: -1})
	}
	for _, k := range m.heldKeys() {
		if m.c.mute && m.c.jobs[k.job].graph.Dataset(k.dataset).Exchange == jobgraph.Pipelined {
			continue
		}
		has.held = append(has.held, schedule.Held{Job: k.job, Dataset: k.dataset, Partitions: []jobgraph.Partition{k.Partition}})
	}
	for k := range m.queues {
		has.queues = append(has.queues, schedule.HeldQueue(k))
	}
	slices.SortFunc(has.queues, func(a, b schedule.HeldQueue) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Generation, b.Generation))
	})
	return has
}

// say tells the leader, now and whenever there is a new one.
func (m *taskManager) say(r report) {
	m.ended = append(m.ended, r)
	if s := m.session; s != nil {
		m.reports.push(func() { s.l.reported(s, r) })
	}
}

// drain asks for no new tasks.
func (m *taskManager) drain() {
	m.draining = true
	if s := m.session; s != nil {
		m.reports.push(func() { s.l.reported(s, report{draining: true}) })
	}
}

// obey does what the leader of the session wants.
func (m *taskManager) obey(s *session, a schedule.Action) {
	if s.l.term < m.term {
		return
	}
	switch a := a.(type) {
	case schedule.Start:
		m.start(a)
	case schedule.Cancel:
		for _, id := range a.Tasks {
			if t := m.find(a.Job, id); t != nil {
				t.cancelled = true
				t.after(m.w.Between(0, 300*time.Millisecond), func() { t.fail(catalog.FailureLost, nil) })
			}
		}
	case schedule.Release:
		for _, p := range a.Partitions {
			k := partKey{a.Job, a.Dataset, p}
			delete(m.held, k)
			delete(m.c.blob, k)
		}
	case schedule.ReleaseJob:
		m.releaseJob(a.Job)
	}
}

func (m *taskManager) releaseJob(job catalog.JobID) {
	for _, k := range m.heldKeys() {
		if k.job == job {
			delete(m.held, k)
		}
	}
	for k := range m.c.blob {
		if k.job == job {
			delete(m.c.blob, k)
		}
	}
	for k := range m.queues {
		if k.Job == job {
			delete(m.queues, k)
		}
	}
	m.ended = slices.DeleteFunc(m.ended, func(r report) bool { return r.job == job })
	for i, slot := range m.slots {
		for _, a := range slot {
			must(a.job != job, "%s is told to release job %s, and runs %s of it in slot %d", m.name, job, a.ID, i)
		}
	}
}

func (m *taskManager) find(job catalog.JobID, id catalog.TaskID) *attempt {
	for _, slot := range m.slots {
		for _, a := range slot {
			if a.job == job && a.ID == id {
				return a
			}
		}
	}
	return nil
}

func (m *taskManager) start(a schedule.Start) {
	must(len(m.slots[a.Slot]) == 0, "%s: %s: the slot holds %v", m.name, a, m.slots[a.Slot])
	for _, spec := range a.Tasks {
		t := &attempt{TaskSpec: spec, m: m, job: a.Job, slot: a.Slot, nonce: m.w.Rand.Uint64(), began: m.c.instant(), life: m.life}
		m.c.check.started(t)
		if m.draining {
			m.say(report{job: t.job, id: t.ID, failure: catalog.Failure{Kind: catalog.FailureLost, Task: t.ID, Message: "it drains"}})
			continue
		}
		m.slots[a.Slot] = append(m.slots[a.Slot], t)
		if spec.QueueAt == m.name {
			k := queueKey{a.Job, spec.ID.Stage, spec.Queue}
			if m.queues[k] == nil {
				m.queues[k] = newQueue()
			}
		}
	}
	for _, t := range m.slots[a.Slot] {
		t.after(m.w.Between(0, 50*time.Millisecond), func() { t.run() })
	}
}
