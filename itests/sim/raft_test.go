package sim

import (
	"time"

	"trestle/raftmeta/catalog"
)

const (
	raftTick    = 60 * time.Millisecond
	leaderLease = 500 * time.Millisecond
)

type role int

const (
	follower role = iota
	candidate
	leader
)

// An entry of the log is one batch of records, or none where a leader begins.
type entry struct {
	term    uint64
	records []catalog.Record
}

// A raftNode is one member of the modelled group. What it has on its disk
// outlives its process; the rest begins anew.
type raftNode struct {
	*process
	c  *cluster
	id int

	// On disk.
	term  uint64
	voted int     // -1: nobody in this term
	log   []entry // entry 0 is none

	role     role
	commit   int
	applied  int
	state    *catalog.State
	voters   []bool
	next     []int
	match    []int
	heard    []time.Duration // by member: when it answered last; for a leader
	deadline time.Duration   // of the patience of who isn't the leader
	barrier  int             // the leader's first entry
	leads    *leading        // nil unless this node leads and has passed its barrier
}

// begin starts the process.
func (n *raftNode) begin() {
	n.alive, n.life, n.frozen = true, n.life+1, 0
	n.role, n.commit, n.applied, n.leads = follower, 0, 0, nil
	n.state = catalog.NewState()
	n.bePatient()
	n.after(n.w.Between(0, raftTick), n.tick)
}

// kill ends the process.
func (n *raftNode) kill() {
	n.alive = false
	n.leads = nil
}

func (n *raftNode) bePatient() {
	n.deadline = n.w.Now + n.w.Between(400*time.Millisecond, 900*time.Millisecond)
}

func (n *raftNode) tick() {
	n.after(raftTick, n.tick)
	if n.role != leader {
		if n.w.Now > n.deadline {
			n.campaign()
		}
		return
	}
	reached := 1
	for i := range n.c.raft {
		if i != n.id && n.w.Now-n.heard[i] < leaderLease {
			reached++
		}
	}
	if 2*reached <= len(n.c.raft) {
		n.stepDown(n.term)
		return
	}
	n.replicate()
}

func (n *raftNode) stepDown(term uint64) {
	if term > n.term {
		n.term, n.voted = term, -1
	}
	if n.leads != nil {
		n.c.trace("%s leads no longer", n.name)
		n.leads = nil
	}
	n.role = follower
	n.bePatient()
}

func (n *raftNode) tell(to int, f func(m *raftNode)) {
	m := n.c.raft[to]
	n.c.net.send(n.name, m.name, func() { m.hear(func() { f(m) }) })
}

func (n *raftNode) last() (index int, term uint64) {
	return len(n.log) - 1, n.log[len(n.log)-1].term
}

func (n *raftNode) campaign() {
	n.stepDown(n.term + 1)
	n.role, n.voted, n.voters = candidate, n.id, make([]bool, len(n.c.raft))
	n.voters[n.id] = true
	term := n.term
	index, lastTerm := n.last()
	for i := range n.c.raft {
		if i != n.id {
			n.tell(i, func(m *raftNode) { m.askedForVote(term, n.id, index, lastTerm) })
		}
	}
}

func (n *raftNode) askedForVote(term uint64, by, index int, lastTerm uint64) {
	if term > n.term {
		n.stepDown(term)
	}
	mine, myTerm := n.last()
	upToDate := lastTerm > myTerm || lastTerm == myTerm && index >= mine
	if term < n.term || n.voted >= 0 && n.voted != by || !upToDate {
		return
	}
	n.voted = by
	n.bePatient()
	n.tell(by, func(m *raftNode) { m.votedFor(term, n.id) })
}

func (n *raftNode) votedFor(term uint64, by int) {
	if n.role != candidate || n.term != term {
		return
	}
	n.voters[by] = true
	votes := 0
	for _, v := range n.voters {
		if v {
			votes++
		}
	}
	if 2*votes <= len(n.voters) {
		return
	}
	other, twice := n.c.leaders[n.term]
	must(!twice || other == n.id, "term %d has two leaders", n.term)
	n.c.leaders[n.term] = n.id
	n.role = leader
	n.next, n.match, n.heard = make([]int, len(n.c.raft)), make([]int, len(n.c.raft)), make([]time.Duration, len(n.c.raft))
	for i := range n.next {
		n.next[i], n.heard[i] = len(n.log), n.w.Now
	}
	n.barrier = n.append(nil)
}

// append adds an entry to the log of the leader, which may come to count.
func (n *raftNode) append(records []catalog.Record) (index int) {
	n.log = append(n.log, entry{n.term, records})
	n.replicate()
	return len(n.log) - 1
}

func (n *raftNode) replicate() {
	for i := range n.c.raft {
		if i == n.id {
			continue
		}
		prev := n.next[i] - 1
		entries := n.log[prev+1:]
		term, prevTerm, commit := n.term, n.log[prev].term, n.commit
		n.tell(i, func(m *raftNode) { m.told(term, n.id, prev, prevTerm, entries, commit) })
	}
}

func (n *raftNode) told(term uint64, by, prev int, prevTerm uint64, entries []entry, commit int) {
	if term < n.term {
		now := n.term
		n.tell(by, func(m *raftNode) {
			if now > m.term {
				m.stepDown(now)
			}
		})
		return
	}
	if term > n.term || n.role != follower {
		n.stepDown(term)
	}
	n.bePatient()
	if prev >= len(n.log) || n.log[prev].term != prevTerm {
		n.tell(by, func(m *raftNode) { m.answered(term, n.id, false, prev) })
		return
	}
	for i, e := range entries {
		if at := prev + 1 + i; at >= len(n.log) || n.log[at].term != e.term {
			must(at > n.commit, "%s would lose entry %d, which counts", n.name, at)
			n.log = append(n.log[:at:at], entries[i:]...)
			break
		}
	}
	have := prev + len(entries)
	n.advance(min(commit, have))
	n.tell(by, func(m *raftNode) { m.answered(term, n.id, true, have) })
}

func (n *raftNode) answered(term uint64, by int, ok bool, have int) {
	if n.role != leader || n.term != term {
		return
	}
	n.heard[by] = n.w.Now
	if !ok {
		n.next[by] = max(1, min(n.next[by]-1, have))
		return
	}
	n.match[by] = max(n.match[by], have)
	n.next[by] = max(n.next[by], have+1)
	for index := len(n.log) - 1; index > n.commit && n.log[index].term == n.term; index-- {
		count := 1
		for i := range n.match {
			if i != n.id && n.match[i] >= index {
				count++
			}
		}
		if 2*count > len(n.match) {
			n.advance(index)
			break
		}
	}
}

// advance applies what counts.
func (n *raftNode) advance(commit int) {
	if commit <= n.commit {
		return
	}
	n.commit = commit
	for n.applied < n.commit {
		n.applied++
		n.c.check.committed(n.applied, n.log[n.applied])
		for _, r := range n.log[n.applied].records {
			err := n.state.Apply(n.c.recode(r))
			must(err == nil, "%s: %v", n.name, err)
		}
	}
	if n.role != leader {
		return
	}
	if n.leads == nil && n.commit >= n.barrier {
		n.leads = newLeading(n)
	}
	if n.leads != nil {
		n.leads.committed()
	}
}
