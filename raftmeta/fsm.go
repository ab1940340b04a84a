package raftmeta

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"trestle/raftmeta/catalog"

	"github.com/hashicorp/raft"
)

// A Follower is told on every node, in order, what the log holds. Its methods
// are called one at a time; appending to the log from within one never ends.
type Follower interface {
	// Apply tells of the records of one batch that had an effect. The index is
	// the batch's place in the log: those of later calls are greater, but after a
	// restart the log is told again, from its last snapshot on.
	Apply(index uint64, records []catalog.Record)
	// Restore puts a state, which the Follower owns from here on, in place of all
	// that it was told before. It is what the log folds to up to that index.
	Restore(index uint64, state *catalog.State)
}

// A fold is Raft's state machine: the catalog and what belongs to it.
type fold struct {
	follower Follower // or nil
	log      *slog.Logger
	damaged  func(error)

	mu      sync.Mutex
	state   *catalog.State
	index   uint64 // of the last entry that was applied or is in the snapshot
	parts   parts
	broken  error         // an entry that can't be understood: nothing is applied after it
	moved   chan struct{} // closed, and replaced, when index grows
	batches uint64        // applied since this process began
	records uint64
	misfits uint64
}

// parts are the entries so far of a batch that is not whole yet.
type parts struct {
	term    uint64
	next    uint16 // 0 when there are none
	payload []byte
}

func newFold(follower Follower, log *slog.Logger, damaged func(error)) *fold {
	return &fold{follower: follower, log: log, damaged: damaged, state: catalog.NewState(), moved: make(chan struct{})}
}

// Apply is raft.FSM. It answers nil, or why the entry has no effect.
func (f *fold) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return f.broken
	}
	e, err := decodeEntry(l.Data)
	if err != nil {
		return f.breakDown(fmt.Errorf("entry %d of the log: %w", l.Index, err))
	}
	records, err := f.gather(l, e)
	if err != nil && !errors.Is(err, ErrNotLeader) {
		return f.breakDown(fmt.Errorf("entry %d of the log: %w", l.Index, err))
	}
	f.advance(l.Index)
	if err != nil {
		return err
	}
	f.take(l.Index, records)
	return nil
}

// gather returns the records of the batch that this entry completes. An entry
// that was written by the leader of an earlier term than the one in which it
// came into the log is void: that leader had lost its office before. Every
// node sees it so, as both are in the log.
func (f *fold) gather(l *raft.Log, e entry) ([]catalog.Record, error) {
	if e.term != l.Term {
		f.parts = parts{}
		return nil, ErrNotLeader
	}
	if e.first {
		f.parts = parts{term: e.term}
	}
	if e.part != f.parts.next || e.term != f.parts.term {
		// What came before it was lost with its leader's office.
		f.parts = parts{}
		return nil, ErrNotLeader
	}
	if e.first && e.last {
		f.parts = parts{}
		return decodeBatch(e.payload)
	}
	if len(f.parts.payload)+len(e.payload) > maxBatchBytes {
		return nil, errors.New("its batch has more bytes than any may have")
	}
	f.parts.payload = append(f.parts.payload, e.payload...)
	f.parts.next++
	if !e.last {
		return nil, nil
	}
	payload := f.parts.payload
	f.parts = parts{}
	return decodeBatch(payload)
}

// take folds a batch in. The lock is held, also while the Follower is told: it
// must hear of what the state holds before anyone can ask for it.
func (f *fold) take(index uint64, records []catalog.Record) {
	if len(records) == 0 {
		return
	}
	effective := records[:0:0]
	for _, r := range records {
		if err := f.state.Apply(r); err != nil {
			f.misfits++
			f.log.Debug("a record of the log has no effect", "index", index, "err", err)
			continue
		}
		effective = append(effective, r)
	}
	f.batches++
	f.records += uint64(len(effective))
	if f.follower != nil && len(effective) > 0 {
		f.follower.Apply(index, effective)
	}
}

// breakDown stops the fold. Going on after an entry that this node can't
// understand would tell another story than the other nodes do.
func (f *fold) breakDown(err error) error {
	f.broken = err
	f.damaged(err)
	return err
}

func (f *fold) advance(index uint64) {
	f.index = index
	close(f.moved)
	f.moved = make(chan struct{})
}

// position returns the index, and a channel that is closed when it grows.
func (f *fold) position() (uint64, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index, f.moved
}

// view is a copy of the state, for its receiver to own, and its index.
func (f *fold) view() (uint64, *catalog.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := copyState(f.state)
	return f.index, s, err
}

func (f *fold) hash() (uint64, catalog.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index, f.state.Hash()
}

func copyState(s *catalog.State) (*catalog.State, error) {
	c := catalog.NewState()
	for r := range s.Snapshot() {
		if err := c.Apply(r); err != nil {
			return nil, fmt.Errorf("copy the state: %w", err)
		}
	}
	return c, nil
}

// Snapshot is raft.FSM.
func (f *fold) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	s, err := copyState(f.state)
	if err != nil {
		return nil, err
	}
	p := f.parts
	p.payload = append([]byte(nil), p.payload...)
	return &frozen{image{index: f.index, parts: p, state: s}}, nil
}

// Restore is raft.FSM.
func (f *fold) Restore(in io.ReadCloser) error {
	im, err := readImage(in)
	if err != nil {
		return err
	}
	var shown *catalog.State
	if f.follower != nil {
		if shown, err = copyState(im.state); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.parts = im.state, im.parts
	f.advance(im.index)
	if f.follower != nil {
		f.follower.Restore(im.index, shown)
	}
	return nil
}

// frozen is an image on its way into a snapshot.
type frozen struct{ image }

// Persist is raft.FSMSnapshot.
func (s *frozen) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is raft.FSMSnapshot.
func (s *frozen) Release() {}
