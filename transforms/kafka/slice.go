package kafka

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

const (
	// sliceTime and sliceBytes bound what is read of a partition before the others
	// of its task have their turn, and what was read is committed. Bytes are those
	// of records, inflated: a fetch begins while there are less.
	sliceTime  = 200 * time.Millisecond
	sliceBytes = 16 << 20
)

// A slice is what is read at a time of a partition that goes on. Who reads it
// sees what came of it when the pages have ended.
type slice struct {
	until time.Time
	left  int64 // bytes
	// caughtUp says that nothing was left to be read when that was last asked, and
	// failing why no more could be read for now.
	caughtUp bool
	asked    time.Time
	failing  error
}

// liveSpan reads the next slice of a partition that goes on.
func liveSpan(c *client, how Reading, p Piece, rest Restriction) *spanReader {
	s := &spanReader{
		client: c, topic: p.Topic, partition: p.Partition, committed: !how.Uncommitted,
		position: rest.Start, end: rest.End, maxBytes: cmp.Or(how.FetchBytes, defaultFetch),
		live: &slice{until: time.Now().Add(sliceTime), left: sliceBytes},
	}
	if how.EarliestAvailable {
		s.skipGone = func(int64, int64) {}
	}
	return s
}

// runLive sends pages until the slice is used up or nothing more is there for
// now, and closes pages. It never waits for records: other partitions may have
// some.
func (s *spanReader) runLive(ctx context.Context, pages chan<- page) error {
	defer close(pages)
	for s.position < s.end && s.live.left > 0 && time.Now().Before(s.live.until) {
		was := s.maxBytes
		s.live.asked = time.Now()
		p, err := s.ask(ctx, 0)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !passing(err):
			return fmt.Errorf("at offset %d: %w", s.position, err)
		case err != nil && s.maxBytes > was:
			continue // a batch that is larger than expected
		case err != nil:
			s.live.failing = err
			return nil
		}
		s.live.caughtUp = p.last
		if p.next == s.position {
			return nil
		}
		s.position = p.next
		s.live.left -= int64(p.size)
		select {
		case pages <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.last {
			return nil
		}
	}
	return nil
}
