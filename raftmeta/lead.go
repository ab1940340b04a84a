package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trestle/raftmeta/catalog"

	"github.com/hashicorp/raft"
)

// ErrNotLeader is for what only the leader can do. What was asked for may still
// happen if it was under way when leadership was lost.
var ErrNotLeader = errors.New("this node doesn't lead its group")

// A Lead leads: it is called when this node has become leader and has applied
// all that was decided before. Its ctx ends when leadership is lost or the node
// closes; then it must return. Terms are unique to one leader, and grow.
type Lead func(ctx context.Context, term uint64, j *Journal) error

// Run calls lead whenever this node becomes leader, never twice at a time, and
// returns nil when ctx ends or the node is closed. Otherwise it ends with the
// node's damage, or with lead's error; after one that is ErrNotLeader lead is
// called again if this node leads still. After an error the node is to be
// closed.
func (n *Node) Run(ctx context.Context, lead Lead) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := n.raft.LeaderCh()
	select {
	case <-changes: // of before
	default:
	}
	var o *office
	defer func() { _ = o.leave() }() // the node ends: nobody is left to be told
	if n.raft.State() == raft.Leader {
		o = n.take(ctx, lead)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.life.Done():
			return nil
		case <-n.brokenC:
			return n.damaged()
		case leading := <-changes:
			if leading && o.is(n.raft.CurrentTerm()) {
				continue
			}
			_ = o.leave() // another leads: what it failed at is theirs
			if o = nil; leading {
				o = n.take(ctx, lead)
			}
		case <-o.over():
			err := o.leave()
			o = nil
			if err != nil {
				return err
			}
			if !pause(ctx, n.life, 50*time.Millisecond) {
				return nil
			}
			if n.raft.State() == raft.Leader {
				o = n.take(ctx, lead)
			}
		}
	}
}

// pause waits, and reports whether neither ctx ended meanwhile.
func pause(a, b context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a.Done():
		return false
	case <-b.Done():
		return false
	case <-t.C:
		return true
	}
}

// An office is one time of leadership, from its beginning to its loss.
type office struct {
	term   uint64
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

func (n *Node) take(ctx context.Context, lead Lead) *office {
	ctx, cancel := context.WithCancel(ctx)
	o := &office{term: n.raft.CurrentTerm(), cancel: cancel, done: make(chan struct{})}
	go func() { // leave waits for it
		defer close(o.done)
		o.err = n.lead(ctx, o.term, lead)
	}()
	return o
}

func (o *office) is(term uint64) bool { return o != nil && o.term == term }

// over is closed when lead has returned by itself.
func (o *office) over() <-chan struct{} {
	if o == nil {
		return nil
	}
	return o.done
}

func (o *office) leave() error {
	if o == nil {
		return nil
	}
	o.cancel()
	<-o.done
	return o.err
}

// lead leads in one term. It returns an error only if the node must not go on.
func (n *Node) lead(ctx context.Context, term uint64, lead Lead) error {
	barrier := make(chan error, 1)
	go func() { barrier <- n.raft.Barrier(0).Error() }() // Raft answers when leadership is lost, or it is closed, at the latest
	select {
	case <-ctx.Done():
		return nil
	case err := <-barrier:
		if err != nil || n.raft.CurrentTerm() != term {
			return nil // lost again; Raft says so, too
		}
	}
	_, state, err := n.fold.view()
	if err != nil {
		return err
	}
	n.setReady(term)
	defer n.setReady(0)
	n.cfg.Log.Info("leads its group", "term", term)
	err = lead(ctx, term, &Journal{n: n, ctx: ctx, term: term, state: state})
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrNotLeader):
		n.cfg.Log.Info("no longer leads its group", "term", term)
		return nil
	case err == nil:
		return fmt.Errorf("node %s: what leads it ended before its leadership of term %d", n.cfg.ID, term)
	}
	return err
}

func (n *Node) setReady(term uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = term
}

func (n *Node) isReady(term uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ready == term
}

// A Journal is the log as the leader of one term sees it. It is runner.Journal.
type Journal struct {
	n     *Node
	ctx   context.Context // of that leadership
	term  uint64
	state *catalog.State // at its beginning
}

// Replay calls fold for records that fold to the state at the beginning of this
// leadership. It is called once, before the first Append.
func (j *Journal) Replay(ctx context.Context, fold func(catalog.Record) error) error {
	for r := range j.state.Snapshot() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fold(r); err != nil {
			return err
		}
	}
	j.state = nil
	return nil
}

// Append returns nil once the records are on the disks of a majority and this
// node's Follower was told of them. They come into the log together, all or
// none, also when they are many; after those of every Append that returned
// earlier. After an error they may or may not have come or come yet, but
// nothing comes after the next leader's barrier: a later term voids them.
//
// It doesn't wait beyond the loss of leadership, which a leader without a
// majority notices within the lease timeout. As what was handed over can't be
// taken back, it isn't given up when ctx ends meanwhile.
func (j *Journal) Append(ctx context.Context, records ...catalog.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	entries, err := encodeBatch(j.term, records)
	if err != nil {
		return err
	}
	begin := time.Now()
	for {
		err = j.n.append(j.ctx, entries)
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			break
		}
		// It ends within an election timeout, one way or the other.
		if !pause(ctx, j.ctx, 2*time.Millisecond) {
			err = ErrNotLeader
			break
		}
	}
	j.n.appends.count(time.Since(begin), len(records), len(entries), err)
	if err != nil {
		return fmt.Errorf("append to the log in term %d: %w", j.term, err)
	}
	return nil
}

func (n *Node) append(ctx context.Context, entries [][]byte) error {
	futures := n.handOver(ctx, entries)
	if len(futures) < len(entries) {
		return ErrNotLeader
	}
	for _, f := range futures {
		if err := f.Error(); err != nil {
			return notLeading(err)
		}
	}
	if err, ok := futures[len(futures)-1].Response().(error); ok {
		return err
	}
	return nil
}

// handOver gives the entries to Raft, or some of them if leadership was lost:
// without its last entry a batch is nothing.
func (n *Node) handOver(ctx context.Context, entries [][]byte) (futures []raft.ApplyFuture) {
	if len(entries) == 1 {
		n.appending.RLock()
		defer n.appending.RUnlock()
	} else {
		n.appending.Lock()
		defer n.appending.Unlock()
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		futures = append(futures, n.raft.Apply(e, 0))
	}
	return futures
}

// notLeading wraps Raft's errors for a node that doesn't lead or no longer.
func notLeading(err error) error {
	for _, lost := range []error{raft.ErrNotLeader, raft.ErrLeadershipLost, raft.ErrRaftShutdown, raft.ErrAbortedByRestore} {
		if errors.Is(err, lost) {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
	}
	return err
}

// ReadIndex returns an index that covers all that was acknowledged before the
// call: who waits for it (WaitApplied), on any node, reads nothing stale. It
// asks a majority whether this node leads still; ErrNotLeader if not, or if it
// has only just begun.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	term := n.raft.CurrentTerm()
	if n.raft.State() != raft.Leader || !n.isReady(term) {
		return 0, ErrNotLeader
	}
	committed := n.raft.CommitIndex()
	if err := n.raft.VerifyLeader().Error(); err != nil {
		return 0, notLeading(err)
	}
	if n.raft.CurrentTerm() != term {
		return 0, ErrNotLeader
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	// What only Raft sees is never applied: nobody could wait for it.
	for i := committed; i >= n.store.first.Load() && i > 0; i-- {
		var l raft.Log
		if err := n.store.GetLog(i, &l); err != nil {
			break // just compacted, and so applied
		}
		if l.Type == raft.LogCommand {
			return i, nil
		}
	}
	index, _ := n.fold.position()
	return index, nil
}

// WaitApplied returns when this node's Follower was told of the log up to the
// index, one that Append, ReadIndex or Hash of some node has to do with.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	for {
		at, moved := n.fold.position()
		if at >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.brokenC:
			return n.damaged()
		case <-n.life.Done():
			return errNodeClosed
		}
	}
}
