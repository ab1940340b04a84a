package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"trestle/coders"
	"trestle/runner/jobgraph"
	"trestle/shuffle"

	"github.com/cespare/xxhash/v2"
)

// A Dest is one dataset that a stage writes: the task's open partition of it.
type Dest struct {
	Partitioning  jobgraph.Partitioning
	Subpartitions int
	Writer        *shuffle.Writer
}

// An outputs stages what one bundle writes: it is the fnapi.Output of the
// bundle, and nothing of it is seen before commit.
type outputs struct {
	sinks  map[string]*sinkWriter
	timers func(transform, family string, chunk []byte) error // nil: none are declared
}

// newOutputs begins a transaction on every destination.
func newOutputs(p *Program, dests map[jobgraph.DatasetID]*Dest) (*outputs, error) {
	o := &outputs{sinks: make(map[string]*sinkWriter, len(p.Sinks))}
	for i := range p.Sinks {
		s, err := newSinkWriter(&p.Sinks[i], dests)
		if err != nil {
			o.abort()
			return nil, err
		}
		o.sinks[p.Sinks[i].ID] = s
	}
	return o, nil
}

// Data takes a chunk of a sink; see fnapi.Output.
func (o *outputs) Data(transform string, chunk []byte) error {
	s := o.sinks[transform]
	if s == nil {
		return fmt.Errorf("worker sent data for %q, which is no output of its stage", transform)
	}
	return s.write(chunk)
}

// Timers takes a chunk of timers; see fnapi.Output.
func (o *outputs) Timers(transform, family string, chunk []byte) error {
	if o.timers == nil {
		return fmt.Errorf("worker sent timers of %q (family %q), which declares none", transform, family)
	}
	return o.timers(transform, family, chunk)
}

// commit makes the bundle's output part of the task's partitions. An error in
// the middle fails the task, whose partitions then are given up whole.
func (o *outputs) commit(ctx context.Context) (elements, bytes int64, err error) {
	for _, s := range o.sinks {
		if len(s.partial) > 0 {
			return 0, 0, fmt.Errorf("worker's output of collection %q ends inside an element", s.collection)
		}
	}
	for _, s := range o.sinks {
		for _, d := range s.dests {
			if err := d.txn.Commit(ctx); err != nil {
				return 0, 0, err
			}
		}
		elements += s.elements
		bytes += s.bytes
	}
	return elements, bytes, nil
}

// abort drops all that the bundle wrote.
func (o *outputs) abort() {
	for _, s := range o.sinks {
		for _, d := range s.dests {
			d.txn.Abort()
		}
	}
}

// A sinkWriter spreads one collection's elements over its datasets.
type sinkWriter struct {
	collection string
	w          *coders.Windowed
	dests      []destTxn
	partial    []byte // the start of an element whose end is in the next chunk
	elements   int64
	bytes      int64
}

type destTxn struct {
	txn  *shuffle.Txn
	by   jobgraph.Partitioning
	subs uint64
	next uint64 // where Spread goes on
}

func newSinkWriter(s *Sink, dests map[jobgraph.DatasetID]*Dest) (*sinkWriter, error) {
	sw := &sinkWriter{collection: s.Output.Collection, w: s.Windowed}
	for _, id := range s.Output.Datasets {
		d := dests[id]
		if d == nil {
			return sw, fmt.Errorf("task has no partition of dataset %s to write", id)
		}
		txn := d.Writer.Begin()
		sw.dests = append(sw.dests, destTxn{txn: txn, by: d.Partitioning, subs: uint64(d.Subpartitions)})
	}
	// Bundles start their rounds at different places, or many small bundles
	// would all fill the first sub-partition.
	for i := range sw.dests {
		sw.dests[i].next = rotation.Add(7)
	}
	return sw, nil
}

// write cuts the chunk at element boundaries and appends. An SDK may cut its
// chunks anywhere; the rest of an element comes with the next one.
func (s *sinkWriter) write(chunk []byte) error {
	if len(s.partial) > 0 {
		s.partial = append(s.partial, chunk...)
		chunk = s.partial
	}
	rest, err := s.spread(chunk)
	if err != nil {
		return fmt.Errorf("worker's output of collection %q: %w", s.collection, err)
	}
	if len(rest) == 0 {
		s.partial = s.partial[:0]
		return nil
	}
	s.partial = append([]byte(nil), rest...)
	return nil
}

// spread appends the whole elements of b and returns what is left.
func (s *sinkWriter) spread(b []byte) (rest []byte, err error) {
	if len(s.dests) == 1 && s.dests[0].by == jobgraph.ByKey {
		return s.spreadByKey(b, &s.dests[0])
	}
	var v coders.Value
	start, n := b, 0
	for len(b) > 0 {
		next, err := s.w.Next(b, &v)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n++
		b = next
		for i := range s.dests {
			if err := s.dests[i].element(&v); err != nil {
				return nil, err
			}
		}
	}
	whole := start[:len(start)-len(b)]
	s.elements += int64(n)
	s.bytes += int64(len(whole))
	for i := range s.dests {
		d := &s.dests[i]
		if (d.by == jobgraph.Forward || d.by == jobgraph.Whole) && n > 0 {
			if err := d.txn.Append(0, whole, n); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// spreadByKey is spread for the commonest case, kept tight.
func (s *sinkWriter) spreadByKey(b []byte, d *destTxn) (rest []byte, err error) {
	var v coders.Value
	total := len(b)
	n := 0
	for len(b) > 0 {
		next, err := s.w.Next(b, &v)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := d.txn.Append(keySub(v.Key(), d.subs), v.Raw, 1); err != nil {
			return nil, err
		}
		n++
		b = next
	}
	s.elements += int64(n)
	s.bytes += int64(total - len(b))
	return b, nil
}

// element appends one element where it must be looked at one by one.
func (d *destTxn) element(v *coders.Value) error {
	switch d.by {
	case jobgraph.ByKey:
		return d.txn.Append(keySub(v.Key(), d.subs), v.Raw, 1)
	case jobgraph.Spread:
		d.next++
		return d.txn.Append(int(d.next%d.subs), v.Raw, 1)
	}
	return nil // appended whole, see spread
}

// keySub maps a key to one of n sub-partitions by the high bits of its hash, so
// that tables which index by the low bits stay evenly filled.
func keySub(key []byte, n uint64) int {
	return int((xxhash.Sum64(key) >> 32) * n >> 32)
}
