package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/internal/pack"
	"trestle/shuffle/driver"
)

// A ServerConfig says what is served. Budget must be set.
type ServerConfig struct {
	// Budget counts what is under way. It is the one that the drivers share.
	Budget *membudget.Budget
	// Blocking are the drivers of partitions that can be read again, by exchange.
	// They must be Forwarders.
	Blocking map[string]driver.Driver
	// Pipelined are those of partitions that are read once, as they grow.
	Pipelined map[string]driver.Driver
	// Keep is how long the reader of a pipelined partition is waited for when its
	// connection has broken; 0 means 15 s. It should be more than any Client's
	// Retry.
	Keep time.Duration
}

const keepDefault = 15 * time.Second

// A Server serves the partitions of its TaskManager to others. It is safe for
// concurrent use.
type Server struct {
	cfg ServerConfig

	receiving sync.WaitGroup // goroutines that outlive their handler by a moment

	mu       sync.Mutex
	closed   bool
	sessions map[string]*session // by reader
}

// NewServer returns a server that must be closed.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Keep == 0 {
		cfg.Keep = keepDefault
	}
	return &Server{cfg: cfg, sessions: map[string]*session{}}
}

// Methods are what a cluster.Server must handle.
func (s *Server) Methods() []cluster.Method { return []cluster.Method{read.Serve(s.read)} }

// Close gives up the readings whose connections have broken. It is called when
// the cluster.Server has ended.
func (s *Server) Close() {
	s.receiving.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, ss := range s.sessions {
		ss.end()
	}
	clear(s.sessions)
}

type stream = cluster.Stream[cluster.Frame, cluster.Frame]

var errLeft = errors.New("the reader has left")

// read serves one stream: one goroutine takes credit while another sends.
func (s *Server) read(ctx context.Context, st *stream) error {
	q, err := receiveRequest(st)
	if err != nil {
		return err
	}
	ids, err := q.ids()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := newCredit(q.Window, q.progress)
	src, err := s.open(ctx, q, ids)
	if err != nil {
		// The caller closes its side when it has heard.
		if err := st.Send(troubleFrame(err, ids)); err != nil {
			return err
		}
		return s.untilLeft(ctx, st, c, nil)
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		err := send(ctx, st, c, src)
		if err == nil || ctx.Err() != nil || errors.Is(err, cluster.ErrEnded) {
			return
		}
		// If this can't be sent, the caller will find out by itself.
		_ = st.Send(troubleFrame(err, ids))
	})
	err = s.untilLeft(ctx, st, c, src)
	cancel(errLeft)
	sending.Wait()
	src.close(err == nil)
	return err
}

func receiveRequest(st *stream) (*request, error) {
	f, err := st.Recv()
	if err != nil {
		return nil, err
	}
	defer f.Free()
	if kindOf(f) != kindRequest {
		return nil, errors.New("a reading begins with a request")
	}
	q := &request{}
	return q, body(f, q)
}

// untilLeft takes credit until the caller leaves, which is nil, or the stream or
// the server end.
func (s *Server) untilLeft(ctx context.Context, st *stream, c *credit, src blocks) error {
	left := make(chan error, 1)
	s.receiving.Go(func() { left <- drain(st, c, src) }) // ends with the stream
	select {
	case err := <-left:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain takes credit until the caller has no more to say, which is nil.
func drain(st *stream, c *credit, src blocks) error {
	for {
		f, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p, err := getNumbers(f)
		f.Free()
		if err != nil {
			return err
		}
		c.add(p)
		if src != nil {
			src.confirm(p.Blocks)
		}
	}
}

// blocks are what is sent to one reader.
type blocks interface {
	// next waits for the next block and gives its frames; io.EOF after the last.
	next(ctx context.Context) (*outgoing, error)
	// sent is told when an outgoing's frames are under way.
	sent(*outgoing)
	// confirm says how many blocks have come.
	confirm(received uint64)
	// total is how many blocks the reading had; asked at its end.
	total() uint64
	// close ends the stream's use of it; finished: the caller left by its own
	// will.
	close(finished bool)
}

// An outgoing block.
type outgoing struct {
	frames []*cluster.Frame
	raw    int
	taken  int64 // of the budget
}

// send sends blocks as there is credit for them.
func send(ctx context.Context, st *stream, c *credit, src blocks) error {
	opened := cluster.NewFrame(1)
	opened.Bytes()[0] = kindOpened
	if err := st.Send(opened); err != nil {
		return err
	}
	for {
		if err := c.wait(ctx); err != nil {
			return err
		}
		out, err := src.next(ctx)
		if errors.Is(err, io.EOF) {
			return st.Send(endFrame(src.total()))
		}
		if err != nil {
			return err
		}
		c.spend(out.raw) // before the reader can tell that it has it
		for _, f := range out.frames {
			if err == nil {
				err = st.Send(f)
			} else {
				f.Free()
			}
		}
		src.sent(out)
		if err != nil {
			return err
		}
	}
}

// troubleFrame tells the caller why there are no blocks.
func troubleFrame(err error, ids []driver.PartitionID) *cluster.Frame {
	kind, t := byte(kindFailed), trouble{Text: err.Error()}
	if lost := driver.LostIn(err); len(lost) > 0 {
		kind = kindLost
		t.Text = lost[0].Err.Error()
		where := make(map[driver.PartitionID]int, len(ids))
		for i, id := range ids {
			where[id] = i
		}
		for _, l := range lost {
			if i, ok := where[l.Partition]; ok {
				t.Parts = append(t.Parts, i)
			}
		}
	}
	f, err := message(kind, t)
	if err != nil { // numbers and a text
		f, _ = message(kind, trouble{Parts: t.Parts})
	}
	return f
}

func (s *Server) open(ctx context.Context, q *request, ids []driver.PartitionID) (blocks, error) {
	if q.Once {
		return s.attach(ctx, q, ids)
	}
	d := s.cfg.Blocking[q.Exchange]
	fwd, ok := d.(driver.Forwarder)
	if !ok {
		return nil, fmt.Errorf("exchange %q isn't served", q.Exchange)
	}
	r, err := fwd.OpenStored(ids, q.Lo, q.Hi, q.Skip)
	if err != nil {
		return nil, err
	}
	seeds := make([]uint64, 0, len(ids))
	for _, id := range ids {
		seeds = append(seeds, driver.Seed(id))
	}
	return &storedBlocks{budget: s.cfg.Budget, r: r, seeds: seeds, seq: q.Blocks}, nil
}

// storedBlocks are those of a Forwarder. If the stream breaks they are opened
// anew.
type storedBlocks struct {
	budget *membudget.Budget
	r      driver.StoredReader
	seeds  []uint64
	seq    uint64
	packer pack.Packer
}

func (s *storedBlocks) next(ctx context.Context) (*outgoing, error) {
	b, err := s.r.Next(ctx)
	if err != nil {
		return nil, err
	}
	h := header{Stored: b, seq: s.seq}
	s.seq++
	if b.Plain {
		data, err := s.r.Read(nil)
		if err != nil {
			return nil, err
		}
		return frameOf(s.budget, &s.packer, h, data, s.seeds[b.Part])
	}
	if b.Size > pieceSize {
		buf := s.budget.Chunk(b.Size)[:b.Size]
		defer s.budget.Free(buf)
		data, err := s.r.Read(buf)
		if err != nil {
			return nil, err
		}
		return inPieces(s.budget, &h, data, s.seeds[b.Part]), nil
	}
	f := cluster.NewFrame(headerSize + b.Size)
	room := f.Bytes()[headerSize:]
	data, err := s.r.Read(room)
	if err != nil {
		f.Free()
		return nil, err
	}
	copy(room, data) // nothing, where it was read into room
	h.put(f.Bytes(), s.seeds[b.Part])
	return outgoingOf(s.budget, h.Raw, f), nil
}

func (s *storedBlocks) sent(out *outgoing) { s.budget.Give(out.taken) }
func (s *storedBlocks) confirm(uint64)     {}
func (s *storedBlocks) total() uint64      { return s.seq }
func (s *storedBlocks) close(bool)         { s.r.Close() }

// outgoingOf counts frames.
func outgoingOf(budget *membudget.Budget, raw int, frames ...*cluster.Frame) *outgoing {
	out := &outgoing{frames: frames, raw: raw}
	for _, f := range frames {
		out.taken += int64(len(f.Bytes()))
	}
	budget.Take(out.taken)
	return out
}

// frameOf packs a plain block, if that helps, and gives its place and checksum.
func frameOf(budget *membudget.Budget, p *pack.Packer, h header, data []byte, seed uint64) (*outgoing, error) {
	most := pack.MaxLen(len(data))
	if most < 0 {
		return nil, fmt.Errorf("a block of %d bytes is too large", len(data))
	}
	h.Plain, h.Place = false, int64(h.seq)
	if most > pieceSize {
		buf := budget.Chunk(most)
		defer budget.Free(buf)
		buf, h.Packed = p.Append(buf, data)
		h.Size, h.Sum = len(buf), driver.Checksum(buf, seed, h.Place)
		return inPieces(budget, &h, buf, seed), nil
	}
	f := cluster.NewFrame(headerSize + most)
	out, packed := p.Append(f.Bytes()[:headerSize], data)
	h.Packed, h.Size = packed, len(out)-headerSize
	h.Sum = driver.Checksum(out[headerSize:], seed, h.Place)
	f.Cut(len(out))
	h.put(f.Bytes(), seed)
	return outgoingOf(budget, h.Raw, f), nil
}

// inPieces makes several frames of a long block.
func inPieces(budget *membudget.Budget, h *header, data []byte, seed uint64) *outgoing {
	first := cluster.NewFrame(headerSize)
	h.put(first.Bytes(), seed)
	frames := []*cluster.Frame{first}
	for len(data) > 0 {
		n := min(len(data), pieceSize)
		f := cluster.NewFrame(1 + n)
		f.Bytes()[0] = kindPiece
		copy(f.Bytes()[1:], data[:n])
		frames = append(frames, f)
		data = data[n:]
	}
	return outgoingOf(budget, h.Raw, frames...)
}
