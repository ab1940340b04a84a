package kafka

import (
	"cmp"
	"context"
)

// A Reading is how ranges are read: what a Source says beside its bounds.
type Reading struct {
	Connection        Connection `json:"connection"`
	Uncommitted       bool       `json:"uncommitted,omitempty"`
	EarliestAvailable bool       `json:"earliest_available,omitempty"`
	FetchBytes        int32      `json:"fetch_bytes,omitempty"`
}

// Reading is how the source's ranges are read.
func (s Source) Reading() Reading {
	return Reading{Connection: s.Connection, Uncommitted: s.Uncommitted, EarliestAvailable: s.EarliestAvailable, FetchBytes: s.FetchBytes}
}

const defaultFetch = 4 << 20

// ReadRange gives all records of a range, in order, to f. The record is valid during
// the call; its key, value and headers are not changed afterwards.
func ReadRange(ctx context.Context, how Reading, one Range, f func(*Record) error) error {
	c, err := dial(how.Connection, one.Topic)
	if err != nil {
		return err
	}
	defer c.close()
	return read(ctx, c, how, one, func(b *batch, from, to int64) (bool, error) {
		err := b.each(func(r *Record) error {
			if r.Offset < from || r.Offset >= to {
				return nil
			}
			return f(r)
		})
		return err == nil, err
	})
}

// read gives the batches of a range, in order, and which of their offsets
// count, while f says to go on.
func read(ctx context.Context, c *client, how Reading, one Range, f func(b *batch, from, to int64) (bool, error)) error {
	ctx, stop := context.WithCancel(ctx)
	s := &spanReader{
		client: c, topic: one.Topic, partition: one.Partition, committed: !how.Uncommitted,
		position: one.Start, end: one.End, maxBytes: cmp.Or(how.FetchBytes, defaultFetch),
	}
	if how.EarliestAvailable {
		s.skipGone = func(int64, int64) {}
	}
	pages := make(chan page, pagesAhead)
	failed := make(chan error, 1)
	go func() { failed <- s.run(ctx, pages) }()
	var err error
	going := true
	for p := range pages {
		for i := range p.batches {
			if going {
				going, err = f(&p.batches[i], p.from, one.End)
			}
		}
		if !going {
			stop() // and see the pages that are under way to their end
		}
	}
	stop()
	ended := <-failed
	if !going {
		return err
	}
	return ended
}
