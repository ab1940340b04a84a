package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// A spanReader reads the offsets [position, end) of a partition, ahead of who
// uses them.
type spanReader struct {
	client    *client
	topic     string
	partition int32
	committed bool
	// skipGone goes on at the first offset that is still there when retention has
	// eaten some; else that is an error.
	skipGone func(from, to int64)
	maxBytes int32
	// live is set where the partition is read as far as it goes for now.
	live *slice

	position, end int64
	trial         trial
	silent        int // empty answers in a row though there should be records
	broken        int // broken answers in a row
}

// A page is what one fetch gave: batches to be seen, in order, and the position
// after them. Its batches are inflated. Their records before from don't count: a
// batch comes whole, whatever was asked for.
type page struct {
	batches []batch
	from    int64
	next    int64
	limit   int64 // where the partition ended
	size    int   // of the batches, in bytes
	// last says that nothing was behind it, not even what can't be read yet.
	last bool
}

// pagesAhead is how many pages wait for their user: with the one being used and
// the one being fetched a reader holds pagesAhead+2 answers.
const pagesAhead = 1

// run sends pages until the position is at the end, and closes pages.
func (s *spanReader) run(ctx context.Context, pages chan<- page) error {
	defer close(pages)
	s.trial = trial{client: s.client}
	for s.position < s.end {
		p, err := s.fetch(ctx)
		if err != nil {
			return fmt.Errorf("%s at offset %d: %w", partitionName(s.topic, s.partition), s.position, err)
		}
		if p.next == s.position {
			continue
		}
		s.position = p.next
		select {
		case pages <- p:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// fetch asks once, and waits before another time if that gave nothing.
func (s *spanReader) fetch(ctx context.Context) (page, error) {
	p, err := s.ask(ctx, fetchWait)
	if err != nil {
		if passing(err) && !errors.Is(err, errStill) {
			err = explain(err, s.client.servers)
		}
		return page{next: s.position}, s.trial.again(ctx, err)
	}
	return p, nil
}

// fetchWait is how long a broker may wait for records that aren't there yet.
const fetchWait = 500 * time.Millisecond

// ask asks once.
func (s *spanReader) ask(ctx context.Context, wait time.Duration) (page, error) {
	answer, err := s.client.call(ctx, &fetchCall{
		topic: s.topic, partition: s.partition, offset: s.position, committed: s.committed,
		clientID: s.client.clientID, maxBytes: s.maxBytes, minBytes: 1, waitMillis: int32(wait.Milliseconds()),
	})
	if err == nil {
		f := answer.(*fetched)
		if f.code == 0 {
			return s.open(f)
		}
		err = kafkago.Error(f.code)
	}
	if errors.Is(err, kafkago.OffsetOutOfRange) {
		return s.outOfRange(ctx)
	}
	return page{}, err
}

// errStill says that the partition doesn't go as far as it did.
var errStill = errors.New("the partition ends here")

// still is the error for a partition that ends too early.
func (s *spanReader) still(limit int64) error {
	if s.live != nil {
		return fmt.Errorf("%w, before %d", errStill, limit)
	}
	return fmt.Errorf("%w, at %d, and is to be read to %d", errStill, limit, s.end)
}

// open looks into an answer.
func (s *spanReader) open(f *fetched) (page, error) {
	p, err := s.batches(f)
	if err != nil {
		// Bytes may break on their way; on the disk they stay broken.
		if s.broken++; s.broken > 2 {
			err = permanentError{err}
		}
		return page{}, err
	}
	s.broken = 0
	limit := f.highWatermark
	if s.committed && f.lastStable >= 0 {
		limit = min(limit, f.lastStable)
	}
	p.limit, p.last = f.highWatermark, p.next >= f.highWatermark
	switch {
	case p.next > s.position:
		s.silent = 0
		s.trial.over()
		return p, nil
	case s.live != nil:
		// What was there up to the limit may have been compacted away.
		p.last = p.last || !f.throttled && limit > s.position
		return p, nil
	case f.throttled:
		return p, nil
	case limit <= s.position:
		return page{}, s.still(limit)
	}
	// Nothing is there up to the limit, and that is all: what was there has been
	// compacted away. The limit is asked for before the records, so let it be
	// said three times.
	if s.silent++; s.silent < 3 {
		return page{}, errors.New("no records, though the partition goes on")
	}
	s.silent = 0
	s.trial.over()
	p.next = min(limit, s.end)
	return p, nil
}

// outOfRange finds out which end of the partition was passed.
func (s *spanReader) outOfRange(ctx context.Context) (page, error) {
	first, err := s.client.offsets(ctx, s.topic, map[int32]int64{s.partition: earliest}, false)
	if err != nil {
		return page{}, permanentError{err} // it was tried again there
	}
	start := first[s.partition]
	if start <= s.position {
		// A leader that has not caught up says so, too.
		return page{}, s.still(s.position)
	}
	if s.skipGone == nil {
		return page{}, gone(s.position, start)
	}
	s.skipGone(s.position, min(start, s.end))
	return page{next: min(start, s.end)}, nil
}

// gone is the error for records that Kafka has deleted.
func gone(position, start int64) error {
	return permanentError{fmt.Errorf("the records from %d to %d have been deleted (retention, or on request); the first that is there is %d. Replay what is left with trestle.retention=earliest-available", position, start-1, start)}
}

// batches takes an answer apart: control batches and those of aborted
// transactions are passed over.
func (s *spanReader) batches(f *fetched) (page, error) {
	p := page{from: s.position, next: s.position}
	aborted := newAbortedFilter(f.aborted)
	for left := f.batches; len(left) > 0 && p.next < s.end; {
		b, rest, err := cutBatch(left)
		if errors.Is(err, errCut) {
			if p.next == s.position && len(left) == len(f.batches) {
				return page{}, s.widen(len(left))
			}
			break
		}
		if err != nil {
			return page{}, err
		}
		left = rest
		if b.last < s.position {
			continue // a batch of the old formats that ends before
		}
		visible := aborted.visible(&b)
		p.next = max(p.next, b.last+1)
		if !visible || b.count == 0 || b.first >= s.end {
			continue
		}
		if err := b.inflate(); err != nil {
			return page{}, err
		}
		p.batches = append(p.batches, b)
		p.size += len(b.body)
	}
	p.next = min(p.next, s.end)
	return p, nil
}

// widen asks for more when not even one batch came whole, which brokers since
// 0.10.1 avoid.
func (s *spanReader) widen(had int) error {
	if s.maxBytes >= largestAnswer/2 {
		return permanentError{fmt.Errorf("a batch of more than %d bytes", had)}
	}
	s.maxBytes *= 2
	return fmt.Errorf("a batch of more than %d bytes", had)
}

// An abortedFilter knows of the producers of an answer's batches which are
// within an aborted transaction.
type abortedFilter struct {
	left   []abortedTransaction // in the order of their first offsets
	within map[int64]bool
}

func newAbortedFilter(list []abortedTransaction) *abortedFilter {
	if len(list) == 0 {
		return &abortedFilter{}
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b abortedTransaction) int {
		switch {
		case a.first < b.first:
			return -1
		case a.first > b.first:
			return 1
		}
		return 0
	})
	return &abortedFilter{left: list, within: map[int64]bool{}}
}

// visible takes batches in order.
func (a *abortedFilter) visible(b *batch) bool {
	for len(a.left) > 0 && a.left[0].first <= b.last {
		a.within[a.left[0].producer] = true
		a.left = a.left[1:]
	}
	if b.isControl() {
		// A transaction ends with its producer's next marker, and this is one:
		// a marker of a commit can't come while the producer is within an
		// aborted transaction.
		delete(a.within, b.producer)
		return false
	}
	return !b.isTransactional() || !a.within[b.producer]
}
