package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"
)

// A session is one reading of pipelined partitions, over one stream after
// another. What the driver's reader gave is kept until it is confirmed, since
// nobody gives it again.
type session struct {
	s    *Server
	id   string
	from driver.Reader
	seed uint64
	// fetching holds a token while one goroutine is at from.
	fetching chan struct{}
	packer   pack.Packer // used with the token

	mu     sync.Mutex
	gen    int                // of streams; those before the last are void
	cancel context.CancelFunc // ends the last stream's use
	expiry *time.Timer        // while no stream uses it
	first  uint64             // seq of kept[0]
	kept   []kept
	ended  bool
}

// kept is a block that is not confirmed.
type kept struct {
	header
	data []byte // a chunk of the budget
}

// An attachment is a stream's use of a session.
type attachment struct {
	*session
	gen int
	ctx context.Context // ends with the use
	seq uint64          // of the next block
}

var errUnknownReader = errors.New("its TaskManager doesn't know the reader any more, or was started again")

// attach finds or makes the session of a request. A later stream of a session
// puts an end to the earlier one: its caller has given it up, whether this end
// has noticed or not.
func (s *Server) attach(ctx context.Context, q *request, ids []driver.PartitionID) (*attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.sessions[q.Reader]
	if ss == nil {
		var err error
		if ss, err = s.newSession(q, ids); err != nil {
			return nil, err
		}
		s.sessions[q.Reader] = ss
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if q.Blocks < ss.first || q.Blocks > ss.first+uint64(len(ss.kept)) {
		return nil, &driver.PartitionError{Partition: ids[0], Err: errUnknownReader}
	}
	if ss.cancel != nil {
		ss.cancel()
	}
	if ss.expiry != nil {
		ss.expiry.Stop()
		ss.expiry = nil
	}
	ss.gen++
	a := &attachment{session: ss, gen: ss.gen, seq: q.Blocks}
	a.ctx, ss.cancel = context.WithCancel(ctx)
	ss.drop(q.Blocks)
	return a, nil
}

// newSession opens the partitions. (s.mu is held.)
func (s *Server) newSession(q *request, ids []driver.PartitionID) (*session, error) {
	if q.Blocks > 0 {
		return nil, &driver.PartitionError{Partition: ids[0], Err: errUnknownReader}
	}
	if s.closed {
		return nil, errors.New("the TaskManager is stopping")
	}
	d := s.cfg.Pipelined[q.Exchange]
	if d == nil {
		return nil, fmt.Errorf("exchange %q isn't served", q.Exchange)
	}
	// If an earlier session of this reader was given up, the driver knows that
	// the partitions had a reader, and doesn't give what is left of them.
	from, err := d.Open(ids, q.Lo, q.Hi)
	if err != nil {
		return nil, err
	}
	return &session{s: s, id: q.Reader, from: from, seed: driver.Seed(ids[0]), fetching: make(chan struct{}, 1)}, nil
}

// next gives the block after the last one, kept or new.
func (a *attachment) next(ctx context.Context) (*outgoing, error) {
	for {
		out, have, err := a.keptBlock()
		if err != nil || have {
			return out, err
		}
		select {
		case a.fetching <- struct{}{}:
		case <-a.ctx.Done():
			return nil, context.Cause(a.ctx)
		}
		err = a.fetch(ctx)
		a.doneFetching()
		if err != nil {
			return nil, err
		}
	}
}

// keptBlock gives the next block if it is there.
func (a *attachment) keptBlock() (out *outgoing, have bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gen != a.session.gen || a.ended {
		return nil, false, errLeft
	}
	if a.seq >= a.first+uint64(len(a.kept)) {
		return nil, false, nil
	}
	k := &a.kept[a.seq-a.first]
	a.seq++
	return k.outgoing(a.s.cfg.Budget, a.seed), true, nil
}

// outgoing makes frames of the block, which stays.
func (k *kept) outgoing(budget *membudget.Budget, seed uint64) *outgoing {
	if len(k.data) > pieceSize {
		return inPieces(budget, &k.header, k.data, seed)
	}
	f := cluster.NewFrame(headerSize + len(k.data))
	k.put(f.Bytes(), seed)
	copy(f.Bytes()[headerSize:], k.data)
	return outgoingOf(budget, k.Raw, f)
}

// fetch takes a block from the driver and keeps it. The caller has the token.
func (a *attachment) fetch(ctx context.Context) error {
	a.mu.Lock()
	stale := a.gen != a.session.gen || a.ended || a.seq < a.first+uint64(len(a.kept))
	seq := a.first + uint64(len(a.kept))
	a.mu.Unlock()
	if stale {
		return nil // keptBlock knows what follows
	}
	data, count, err := a.from.Next(a.ctx)
	if err != nil {
		if a.ctx.Err() != nil && ctx.Err() == nil {
			return errLeft
		}
		return err
	}
	k, err := a.keep(seq, data, count)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		a.s.cfg.Budget.Free(k.data)
		return errLeft
	}
	a.kept = append(a.kept, k)
	return nil
}

// doneFetching gives the token back, and closes the driver's reader if the
// session has ended meanwhile.
func (a *attachment) doneFetching() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		a.from.Close()
	}
	<-a.fetching
}

// keep copies a block, packed if that helps.
func (a *attachment) keep(seq uint64, data []byte, count int) (kept, error) {
	most := pack.MaxLen(len(data))
	if most < 0 {
		return kept{}, fmt.Errorf("a block of %d bytes is too large", len(data))
	}
	budget := a.s.cfg.Budget
	k := kept{header: header{seq: seq, Stored: driver.Stored{Count: count, Raw: len(data), Place: int64(seq)}}}
	k.data, k.Packed = a.packer.Append(budget.Chunk(most), data)
	if membudget.ChunkSize(len(k.data)) < cap(k.data) {
		fitting := append(budget.Chunk(len(k.data)), k.data...)
		budget.Free(k.data)
		k.data = fitting
	}
	k.Size, k.Sum = len(k.data), driver.Checksum(k.data, a.seed, k.Place)
	return k, nil
}

func (a *attachment) sent(out *outgoing) { a.s.cfg.Budget.Give(out.taken) }

// confirm forgets blocks that have come.
func (a *attachment) confirm(received uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gen == a.session.gen {
		a.drop(received)
	}
}

// drop forgets blocks before seq. (ss.mu is held.)
func (ss *session) drop(seq uint64) {
	n := min(seq-min(seq, ss.first), uint64(len(ss.kept)))
	for i := range ss.kept[:n] {
		ss.s.cfg.Budget.Free(ss.kept[i].data)
		ss.kept[i] = kept{}
	}
	ss.kept = ss.kept[n:]
	ss.first += n
}

func (a *attachment) total() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.first + uint64(len(a.kept))
}

// close ends the reading, or leaves it to a later stream for a while.
func (a *attachment) close(finished bool) {
	s, ss := a.s, a.session
	s.mu.Lock()
	defer s.mu.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if a.gen != ss.gen {
		return // another stream has it
	}
	ss.cancel()
	ss.cancel = nil
	if finished || s.closed {
		s.forget(ss)
		return
	}
	gen := ss.gen
	ss.expiry = time.AfterFunc(s.cfg.Keep, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		ss.mu.Lock()
		defer ss.mu.Unlock()
		if ss.gen == gen {
			s.forget(ss)
		}
	})
}

// forget ends a session that no stream uses. (s.mu and ss.mu are held.)
func (s *Server) forget(ss *session) {
	if !ss.ended {
		ss.release()
		delete(s.sessions, ss.id)
	}
}

// end is for a session whose streams have all ended.
func (ss *session) end() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.ended {
		ss.release()
	}
}

// release frees all. (ss.mu is held.)
func (ss *session) release() {
	ss.ended = true
	if ss.expiry != nil {
		ss.expiry.Stop()
	}
	if ss.cancel != nil {
		ss.cancel()
	}
	select {
	case ss.fetching <- struct{}{}:
		ss.from.Close()
		<-ss.fetching
	default: // an earlier stream is at it still, but not for long: see doneFetching
	}
	ss.drop(ss.first + uint64(len(ss.kept)))
}
