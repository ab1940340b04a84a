package network

import (
	"errors"
	"fmt"
	"io"

	"trestle/internal/cluster"
	"trestle/internal/pack"
	"trestle/shuffle/driver"
)

// A receiver takes what comes over one stream.
type receiver struct {
	r    *Reader
	st   *stream
	base int            // of the request's partitions in r.ids
	seed map[int]uint64 // of the last partition; by index in r.ids
}

// seedOf is the checksum seed of a partition of the request.
func (in *receiver) seedOf(part int) (uint64, bool) {
	at := in.base + part
	if part < 0 || at >= len(in.r.ids) {
		return 0, false
	}
	s, ok := in.seed[at]
	if !ok {
		s = driver.Seed(in.r.ids[at])
		in.seed = map[int]uint64{at: s} // they come one after another
	}
	return s, true
}

// all receives until the end, which is nil, or an error.
func (in *receiver) all() error {
	r := in.r
	for {
		f, err := in.st.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the stream ended early")
		}
		if err != nil {
			return err
		}
		switch kindOf(f) {
		case kindOpened:
			r.opened = true
			r.mu.Lock()
			r.isReady()
			r.mu.Unlock()
		case kindBlock:
			err = in.block(f)
		case kindEnd:
			p, err := getNumbers(f)
			f.Free()
			if err == nil && p.Blocks != r.got.Blocks {
				err = errGarbled
			}
			return err
		case kindLost, kindFailed:
			err = in.trouble(f)
		default:
			err = errGarbled
		}
		f.Free()
		if err != nil {
			return err
		}
	}
}

// trouble is the error that the other end tells.
func (in *receiver) trouble(f *cluster.Frame) error {
	var t trouble
	if err := body(f, &t); err != nil {
		return err
	}
	if kindOf(f) == kindFailed {
		return &passingError{t.Text}
	}
	var all []*driver.PartitionError
	for _, p := range t.Parts {
		if p < 0 || in.base+p >= len(in.r.ids) {
			return errGarbled
		}
		all = append(all, &driver.PartitionError{
			Partition: in.r.ids[in.base+p],
			Err:       fmt.Errorf("at TaskManager %s: %s", in.r.from, t.Text),
		})
	}
	if len(all) == 0 {
		return &passingError{t.Text}
	}
	return &finalError{driver.Lost(all)}
}

// block takes a block that begins with f.
func (in *receiver) block(f *cluster.Frame) error {
	r := in.r
	h, err := getHeader(f.Bytes(), in.seedOf)
	if err != nil {
		return err
	}
	part := in.base + h.Part
	if h.seq != r.got.Blocks || part < r.part || part > r.part && r.what.Once {
		return errGarbled
	}
	seed, _ := in.seedOf(h.Part)
	stored := f.Bytes()[headerSize:]
	if len(stored) != h.Size {
		if stored, err = in.pieces(h.Size); err != nil {
			return err
		}
		defer r.c.cfg.Budget.Free(stored)
	}
	data, err := r.unpack(&h, stored, seed)
	if err != nil {
		if r.garbled++; r.garbled < mostGarbled {
			return err // on the way, perhaps
		}
		return &finalError{&driver.PartitionError{
			Partition: r.ids[part],
			Err:       fmt.Errorf("at TaskManager %s: block at %d: %w", r.from, h.Place, err),
		}}
	}
	r.garbled = 0
	if part > r.part {
		r.part, r.skip = part, 0
	}
	r.skip++
	r.mu.Lock()
	r.got.Blocks++
	r.got.Bytes += uint64(h.Raw)
	r.queue = append(r.queue, arrived{data, h.Count})
	r.mu.Unlock()
	r.notify()
	return nil
}

// pieces puts a long block together, in a chunk of the budget.
func (in *receiver) pieces(size int) ([]byte, error) {
	budget := in.r.c.cfg.Budget
	buf := budget.Chunk(min(size, 4*pieceSize)) // as much as is promised only when it comes
	for len(buf) < size {
		f, err := in.st.Recv()
		if err != nil {
			budget.Free(buf)
			return nil, err
		}
		piece := f.Bytes()
		if kindOf(f) != kindPiece || len(piece)-1 > size-len(buf) {
			f.Free()
			budget.Free(buf)
			return nil, errGarbled
		}
		if need := len(buf) + len(piece) - 1; need > cap(buf) {
			grown := append(budget.Chunk(min(size, max(need, 2*cap(buf)))), buf...)
			budget.Free(buf)
			buf = grown
		}
		buf = append(buf, piece[1:]...)
		f.Free()
	}
	return buf, nil
}

var errSum = errors.New("wrong checksum")

// unpack checks a block and gives its elements in a chunk of the budget.
func (r *Reader) unpack(h *header, stored []byte, seed uint64) ([]byte, error) {
	if driver.Checksum(stored, seed, h.Place) != h.Sum {
		return nil, errSum
	}
	budget := r.c.cfg.Budget
	if !h.Packed {
		return append(budget.Chunk(h.Raw), stored...), nil
	}
	data := budget.Chunk(h.Raw)[:h.Raw]
	if err := pack.Unpack(data, stored); err != nil {
		budget.Free(data)
		return nil, err
	}
	return data, nil
}
