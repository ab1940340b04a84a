package raftmeta

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// meter counts appends.
type meter struct {
	done, failed, records, entries atomic.Uint64
	nanoseconds                    atomic.Int64
}

func (m *meter) count(took time.Duration, records, entries int, err error) {
	if err != nil {
		m.failed.Add(1)
		return
	}
	m.done.Add(1)
	m.records.Add(uint64(records))
	m.entries.Add(uint64(entries))
	m.nanoseconds.Add(int64(took))
}

// A Status is where a node stands, and what it has done since it was opened.
type Status struct {
	ID, Group string
	State     string // Follower, Candidate, Leader or Shutdown
	Leads     bool   // and has applied all that came before it led
	Term      uint64
	LastIndex uint64 // of the log, whether committed or not
	Committed uint64
	Applied   uint64    // index of the last batch that the state holds
	Snapshot  uint64    // where the newest snapshot ends
	Contact   time.Time // when this follower last heard of its leader

	Appends       uint64 // that this node was asked for as leader, and did
	FailedAppends uint64
	Records       uint64        // in these appends
	Entries       uint64        // of the log, in these appends
	AppendTime    time.Duration // of these appends, in all

	Stored       uint64        // entries that were written to disk, Raft's own too
	Transactions uint64        // of the store, for entries, votes and terms
	Syncs        uint64        // that these took
	StoreTime    time.Duration // of writing entries, in all

	AppliedBatches uint64 // on this node
	AppliedRecords uint64 // that had an effect
	Misfits        uint64 // records that had none
}

// syncsPerTransaction is bbolt's way: first the pages, then the page that says
// which of them count.
const syncsPerTransaction = 2

// Status tells where the node stands.
func (n *Node) Status() Status {
	s := Status{
		ID: n.cfg.ID, Group: n.identity.group(), State: n.raft.State().String(), Term: n.raft.CurrentTerm(),
		LastIndex: n.raft.LastIndex(), Committed: n.raft.CommitIndex(), Contact: n.raft.LastContact(),
		Appends: n.appends.done.Load(), FailedAppends: n.appends.failed.Load(), Records: n.appends.records.Load(),
		Entries: n.appends.entries.Load(), AppendTime: time.Duration(n.appends.nanoseconds.Load()),
		Stored: n.store.entries.Load(), Transactions: n.store.transactions.Load(), StoreTime: time.Duration(n.store.storeTime.Load()),
	}
	s.Leads = n.raft.State() == raft.Leader && n.isReady(s.Term)
	s.Syncs = s.Transactions * syncsPerTransaction
	n.mu.Lock()
	s.Snapshot = n.snapIndex
	n.mu.Unlock()
	n.fold.mu.Lock()
	defer n.fold.mu.Unlock()
	s.Applied, s.AppliedBatches, s.AppliedRecords, s.Misfits = n.fold.index, n.fold.batches, n.fold.records, n.fold.misfits
	return s
}
