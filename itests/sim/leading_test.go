package sim

import (
	"slices"
	"strings"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
)

const (
	managerLease = 3 * time.Second
	joinTimeout  = 5 * time.Second
	epoch        = catalog.Instant(1_000_000 * time.Second) // when the world begins
)

// A leading is what a JobManager has while it leads: the model of package
// runner's Dispatcher.
type leading struct {
	n        *raftNode
	c        *cluster
	term     uint64
	state    *catalog.State
	seen     *schedule.Seen
	sessions []*session // by name of the TaskManager
	ids      int
	batches  []batch // decided, and not yet known to count
	replies  []func()
	giveUpAt time.Duration // 0: all is known
	wake     catalog.Instant
}

// A batch waits until its entry counts.
type batch struct {
	index    int
	actions  []schedule.Action
	replies  []func()
	sessions []*session // that the actions are meant for
}

// A session is with one life of a TaskManager.
type session struct {
	l        *leading
	id       int
	tm       *taskManager
	life     int
	heard    time.Duration
	joined   bool
	over     bool
	commands *pipe
}

func newLeading(n *raftNode) *leading {
	l := &leading{n: n, c: n.c, term: n.term, state: catalog.NewState(), seen: schedule.NewSeen()}
	l.giveUpAt = n.w.Now + joinTimeout
	if n.w.Chance(0.2) {
		for r := range n.state.Snapshot() {
			must(l.state.Apply(n.c.recode(r)) == nil, "restore %s", r)
		}
	} else {
		for _, e := range n.log[:n.applied+1] {
			for _, r := range e.records {
				must(l.state.Apply(r) == nil, "replay %s", r)
			}
		}
	}
	must(l.state.Hash() == n.state.Hash(), "%s reads another story in its log", n.name)
	n.c.trace("%s leads in term %d", n.name, n.term)
	n.after(0, func() { l.decide() })
	n.after(managerLease/3, l.look)
	return l
}

// leads reports whether this is still what its node does.
func (l *leading) leads() bool { return l.n.alive && l.n.leads == l }

func (l *leading) now() catalog.Instant { return l.c.instant() }

// look ends the sessions of those that haven't been heard of.
func (l *leading) look() {
	if !l.leads() {
		return
	}
	l.n.after(managerLease/3, l.look)
	for _, s := range slices.Clone(l.sessions) {
		if l.n.w.Now-s.heard > managerLease {
			l.end(s)
			l.c.trace("%s has lost %s", l.n.name, s.tm.name)
			if s.joined {
				l.seen.LostManager(s.tm.name, l.now())
			}
		}
	}
	l.decide()
}

func (l *leading) end(s *session) {
	s.over = true
	l.sessions = slices.DeleteFunc(l.sessions, func(o *session) bool { return o == s })
}

func (l *leading) session(name string) *session {
	i := slices.IndexFunc(l.sessions, func(s *session) bool { return s.tm.name == name })
	if i < 0 {
		return nil
	}
	return l.sessions[i]
}

// beat is a TaskManager's sign of life. One that has no session is offered one.
func (l *leading) beat(tm *taskManager, life int, has *session) {
	s := l.session(tm.name)
	if s != nil && s.life == life && (s == has || !s.joined) {
		s.heard = l.n.w.Now
	} else if s == nil || s.life != life || has == nil || has.l != l || has.over {
		// It has begun again, or has left the session.
		if s != nil && s.life > life {
			return // late
		}
		if s != nil {
			l.end(s) // what it had is told by its successor
		}
		l.ids++
		s = &session{l: l, id: l.ids, tm: tm, life: life, heard: l.n.w.Now}
		s.commands = newPipe(l.c.net, l.n.process, tm.process, func() bool { return !s.over && tm.session == s })
		l.sessions = append(l.sessions, s)
		slices.SortFunc(l.sessions, func(a, b *session) int { return strings.Compare(a.tm.name, b.tm.name) })
	}
	l.c.net.send(l.n.name, tm.name, func() { tm.hear(func() { tm.welcome(s, l.term) }) })
}

// joins is the first message of a session.
func (l *leading) joins(s *session, has inventory) {
	if !l.leads() || s.over || s.joined {
		return
	}
	s.joined, s.heard = true, l.n.w.Now
	l.c.trace("%s joins %s: %v", s.tm.name, l.n.name, has)
	l.seen.Joined(s.tm.name, len(s.tm.slots), has.running, has.held, has.queues)
	if has.draining {
		l.seen.Draining(s.tm.name)
	}
	l.decide()
}

// reported is what a TaskManager says in its session.
func (l *leading) reported(s *session, r report) {
	if !l.leads() || s.over {
		return
	}
	switch {
	case r.finished != nil:
		done := *r.finished
		done.TaskManager, done.Ended = s.tm.name, l.now()
		l.seen.Finished(&done)
	case r.draining:
		l.seen.Draining(s.tm.name)
	default:
		f := r.failure
		f.At = l.now()
		l.seen.Failed(r.job, f, r.lost)
	}
	l.decide()
}

// decide makes a batch of what follows.
func (l *leading) decide() {
	if !l.leads() {
		return
	}
	if l.giveUpAt > 0 && (l.n.w.Now >= l.giveUpAt || l.allThere()) {
		l.giveUpAt = 0
		l.seen.Known(l.now())
		l.c.trace("%s knows what there is", l.n.name)
	}
	out := schedule.Decide(l.state, l.seen, l.c.policy, l.now())
	b := batch{index: l.n.commit, actions: out.Actions, replies: l.replies, sessions: l.joined()}
	l.replies = nil
	if len(l.batches) > 0 {
		b.index = l.batches[len(l.batches)-1].index
	}
	if len(out.Records) > 0 {
		b.index = l.n.append(out.Records)
	}
	if len(b.actions)+len(b.replies)+len(out.Records) > 0 {
		l.batches = append(l.batches, b)
	}
	if at := out.WakeAt; at > 0 && at != l.wake {
		l.wake = at
		l.n.after(at.Sub(l.now()), func() {
			if l.wake == at {
				l.wake = 0
			}
			l.decide()
		})
	}
	l.committed()
}

// joined are the sessions in which there is someone to be told something.
func (l *leading) joined() []*session {
	return slices.DeleteFunc(slices.Clone(l.sessions), func(s *session) bool { return !s.joined })
}

func (l *leading) allThere() bool {
	for _, m := range l.state.TaskManagers() {
		if s := l.session(m.Name); s == nil || !s.joined {
			return false
		}
	}
	return true
}

// committed does what waited for its records to count.
func (l *leading) committed() {
	for len(l.batches) > 0 && l.batches[0].index <= l.n.commit {
		b := l.batches[0]
		l.batches = l.batches[1:]
		for _, a := range b.actions {
			l.do(a, b.sessions)
		}
		for _, reply := range b.replies {
			reply()
		}
	}
}

func (l *leading) do(a schedule.Action, sessions []*session) {
	l.c.trace("%s: %s", l.n.name, a)
	var name string
	switch a := a.(type) {
	case schedule.Start:
		name = a.TaskManager
	case schedule.Cancel:
		name = a.TaskManager
	case schedule.Release:
		name = a.TaskManager
		l.c.check.released(a)
	case schedule.ReleaseJob:
		for _, s := range sessions {
			if !s.over {
				l.command(s, a)
			}
		}
		return
	}
	for _, s := range sessions {
		if s.tm.name == name && !s.over {
			l.command(s, a)
		}
	}
}

func (l *leading) command(s *session, a schedule.Action) {
	s.commands.push(func() { s.tm.obey(s, a) })
	if _, start := a.(schedule.Start); !start && l.c.w.Chance(0.02) {
		s.commands.push(func() { s.tm.obey(s, a) }) // each may be done twice
	}
}

// submit and stop are what clients ask of whoever they take for the leader.
func (l *leading) submit(r *catalog.JobAccepted, reply func()) {
	l.replies = append(l.replies, reply)
	if l.state.Job(r.Job) == nil {
		accepted := *r
		accepted.At = l.now()
		l.seen.Accepted(&accepted)
	}
	l.decide()
}

func (l *leading) stop(job catalog.JobID, mode catalog.StopMode, reply func()) {
	if l.state.Job(job) == nil {
		return
	}
	l.replies = append(l.replies, reply)
	l.seen.StopRequested(&catalog.StopRequested{Job: job, At: l.now(), Mode: mode})
	l.decide()
}
