package bundle

import (
	"context"
	"encoding/binary"
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
	// KeyGroups is not 0 where each sub-partition is that of a range of so many
	// key groups.
	KeyGroups int
	Writer    *shuffle.Writer
	// Before is told of the elements that are about to be committed; may be nil.
	Before func(elements int64)
}

// An outputs stages what one bundle writes: it is the fnapi.Output of the
// bundle, and nothing of it is seen before commit.
type outputs struct {
	program *Program
	sinks   map[string]*sinkWriter
	timers  []TimerChunk // one for each family that has some
}

// maxKept bounds what an aside may give back: what is asked in one is small.
const maxKept = 256 << 20

var errKept = fmt.Errorf("it takes more than %d bytes", maxKept)

// A garbageError is output that can't be cut into elements or timers.
type garbageError struct {
	what string
	err  error
}

func (e *garbageError) Error() string { return e.what + ": " + e.err.Error() }
func (e *garbageError) Unwrap() error { return e.err }

var errInside = errors.New("it ends inside an element")

// newOutputs begins a transaction on every destination.
func newOutputs(p *Program, dests map[jobgraph.DatasetID]*Dest) (*outputs, error) {
	o := &outputs{program: p, sinks: make(map[string]*sinkWriter, len(p.Sinks))}
	for i := range p.Sinks {
		s, err := newSinkWriter(&p.Sinks[i], dests)
		o.sinks[p.Sinks[i].ID] = s
		if err != nil {
			o.abort()
			return nil, err
		}
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
	for i := range o.timers {
		t := &o.timers[i]
		if t.Transform == transform && t.Family == family {
			t.Bytes = append(t.Bytes, chunk...)
			return nil
		}
	}
	if o.program.family(transform, family) == nil {
		return fmt.Errorf("worker sent timers of %q (family %q), which declares none", transform, family)
	}
	o.timers = append(o.timers, TimerChunk{transform, family, append([]byte(nil), chunk...)})
	return nil
}

// end checks that the output is whole.
func (o *outputs) end() error {
	for _, s := range o.sinks {
		if err := s.end(); err != nil {
			return err
		}
	}
	for _, t := range o.timers {
		f := o.program.family(t.Transform, t.Family)
		for b := t.Bytes; len(b) > 0; {
			var err error
			if _, b, err = f.Cut(b); err != nil {
				return &garbageError{fmt.Sprintf("timers %q of %q", t.Family, t.Transform), err}
			}
		}
	}
	return nil
}

// commit makes the bundle's output part of the task's partitions; end must have
// found it whole. An error in the middle fails the task, whose partitions then
// are given up whole.
func (o *outputs) commit(ctx context.Context) (elements, bytes int64, err error) {
	for _, s := range o.sinks {
		for _, d := range s.dests {
			if err != nil {
				d.txn.Abort()
				continue
			}
			if d.before != nil {
				d.before(d.txn.Count())
			}
			err = d.txn.Commit(ctx)
		}
		elements += s.elements
		bytes += s.bytes
	}
	return elements, bytes, err
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
	keep       bool   // in kept
	kept       []byte // all that has come
	dests      []destTxn
	partial    []byte // begins with an element whose end was not there yet
	enough     int    // how long partial must be to be looked at again
	elements   int64
	bytes      int64
}

type destTxn struct {
	txn    *shuffle.Txn
	by     jobgraph.Partitioning
	subs   uint64
	groups uint64 // 0: none
	next   uint64 // where Spread goes on
	before func(elements int64)
}

func newSinkWriter(s *Sink, dests map[jobgraph.DatasetID]*Dest) (*sinkWriter, error) {
	sw := &sinkWriter{collection: s.Output.Collection, w: s.Windowed, keep: s.Keep}
	for _, id := range s.Output.Datasets {
		d := dests[id]
		if d == nil {
			return sw, fmt.Errorf("task has no partition of dataset %s to write", id)
		}
		txn := d.Writer.Begin()
		sw.dests = append(sw.dests, destTxn{txn: txn, by: d.Partitioning, subs: uint64(d.Subpartitions), groups: uint64(d.KeyGroups), before: d.Before})
	}
	// Bundles start their rounds at different places, or many small bundles
	// would all fill the first sub-partition.
	for i := range sw.dests {
		sw.dests[i].next = rotation.Add(7)
	}
	return sw, nil
}

// write cuts the chunk at element boundaries and appends. An SDK may cut its
// chunks anywhere; the rest of an element comes with the next ones.
func (s *sinkWriter) write(chunk []byte) error {
	if len(s.partial) == 0 {
		rest, err := s.spread(chunk)
		s.partial = append(s.partial, rest...)
		s.enough = 2 * len(rest)
		return err
	}
	s.partial = append(s.partial, chunk...)
	if len(s.partial) < s.enough {
		return nil // an element of many chunks isn't walked through for each of them
	}
	return s.again()
}

// again cuts what was partial.
func (s *sinkWriter) again() error {
	rest, err := s.spread(s.partial)
	s.partial = s.partial[:copy(s.partial, rest)]
	s.enough = 2 * len(rest)
	return err
}

// end takes what is left, of which nothing may stay.
func (s *sinkWriter) end() error {
	if len(s.partial) == 0 {
		return nil
	}
	if err := s.again(); err != nil {
		return err
	}
	if len(s.partial) > 0 {
		return s.garbage(errInside)
	}
	return nil
}

func (s *sinkWriter) garbage(err error) error {
	return &garbageError{fmt.Sprintf("output of collection %q", s.collection), err}
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
			return nil, s.garbage(err)
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
	if s.keep && len(s.kept)+len(whole) > maxKept {
		return nil, s.garbage(errKept)
	}
	if s.keep {
		s.kept = append(s.kept, whole...)
	}
	for i := range s.dests {
		d := &s.dests[i]
		if d.by != jobgraph.Forward && d.by != jobgraph.Whole || n == 0 {
			continue
		}
		for sub := range d.subs { // of Whole, each of several readers has a copy
			if err := d.txn.Append(int(sub), whole, n); err != nil {
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
			return nil, s.garbage(err)
		}
		if err := d.txn.Append(d.keySub(v.Key()), v.Raw, 1); err != nil {
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
		return d.txn.Append(d.keySub(v.Key()), v.Raw, 1)
	case jobgraph.Spread:
		d.next++
		return d.txn.Append(int(d.next%d.subs), v.Raw, 1)
	}
	return nil // appended whole, see spread
}

// KeyGroup is the group that a key is in of so many: those whose hashes are
// neighbours. Elements have a key with its length before it, where its coder
// needs that, and state requests may have it without: both are in one group.
func KeyGroup(key []byte, groups int) int {
	// A key may look as if it had a length itself: so all that look so go.
	for {
		n, used := binary.Uvarint(key)
		if used <= 0 || n != uint64(len(key)-used) {
			return keySub(key, uint64(groups))
		}
		key = key[used:]
	}
}

// keySub is the sub-partition of a key.
func (d *destTxn) keySub(key []byte) int {
	if d.groups == 0 {
		return keySub(key, d.subs)
	}
	return KeyGroup(key, int(d.groups)) * int(d.subs) / int(d.groups)
}

// keySub maps a key to one of n sub-partitions by the high bits of its hash, so
// that tables which index by the low bits stay evenly filled.
func keySub(key []byte, n uint64) int {
	return int((xxhash.Sum64(key) >> 32) * n >> 32)
}
