package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A Range is a piece of one partition: the offsets from Start up to, but not
// with, End. The greatest End means that it goes on.
type Range struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
}

// String is the range as people read it.
func (r Range) String() string {
	if r.End == unending {
		return fmt.Sprintf("%s:%d from %d on", r.Topic, r.Partition, r.Start)
	}
	return fmt.Sprintf("%s:%d [%d, %d)", r.Topic, r.Partition, r.Start, r.End)
}

// Bounds are what a replay reads, exactly.
type Bounds struct {
	// Time is when they were resolved, in milliseconds since 1970: the event time
	// of records where the user wants the time of processing.
	Time   int64   `json:"time"`
	Ranges []Range `json:"ranges"` // by topic and partition; none is empty
	// Warnings say what the user should know: where retention or an open
	// transaction has made a range smaller than what was asked for.
	Warnings []string `json:"warnings,omitempty"`
}

// Resolve finds the exact ranges that a source means now. Called again later it
// gives others, so whoever wants to read the same again keeps what it gave.
func Resolve(ctx context.Context, s Source) (Bounds, error) {
	if s.Reset == FromLatest {
		return Bounds{}, errors.New("auto.offset.reset: " + noLatest)
	}
	return collect(ctx, s, func(r *resolver, topics []string) error {
		for _, t := range topics {
			if err := r.topic(ctx, t); err != nil {
				return err
			}
		}
		return r.limit(ctx)
	})
}

// collect has the bounds of a source's topics, each once and in order, found.
func collect(ctx context.Context, s Source, find func(r *resolver, topics []string) error) (Bounds, error) {
	if len(s.Topics) == 0 {
		return Bounds{}, errors.New("no topic is named")
	}
	topics := slices.Compact(slices.Sorted(slices.Values(s.Topics)))
	for _, t := range topics {
		if err := validTopic(t); err != nil {
			return Bounds{}, err
		}
	}
	c, err := dial(s.Connection, topics...)
	if err != nil {
		return Bounds{}, err
	}
	defer c.close()
	r := resolver{client: c, source: s, bounds: Bounds{Time: time.Now().UnixMilli()}}
	if err := find(&r, topics); err != nil {
		return Bounds{}, err
	}
	return r.bounds, nil
}

// A resolver collects bounds.
type resolver struct {
	client *client
	source Source
	bounds Bounds
}

func (r *resolver) warn(format string, args ...any) {
	r.bounds.Warnings = append(r.bounds.Warnings, fmt.Sprintf(format, args...))
}

// extent is what partitions a topic has, and from where to where there are
// records, or have been, in each.
func (r *resolver) extent(ctx context.Context, topic string) (partitions []int32, first, end map[int32]int64, err error) {
	if partitions, err = r.client.partitions(ctx, topic); err != nil {
		return nil, nil, nil, err
	}
	if err = r.unknownPartitions(topic, partitions); err != nil {
		return nil, nil, nil, err
	}
	if first, err = r.all(ctx, topic, partitions, earliest, false); err != nil {
		return nil, nil, nil, err
	}
	end, err = r.all(ctx, topic, partitions, latest, false)
	return partitions, first, end, err
}

// topic adds one topic's ranges.
func (r *resolver) topic(ctx context.Context, topic string) error {
	partitions, first, end, err := r.extent(ctx, topic)
	if err != nil {
		return err
	}
	starts, err := r.place(ctx, topic, partitions, r.source.Start, first, end)
	if err != nil {
		return err
	}
	stops, err := r.place(ctx, topic, partitions, r.source.Stop, end, end)
	if err != nil {
		return err
	}
	for _, p := range partitions {
		one := Range{Topic: topic, Partition: p, Start: starts[p], End: stops[p]}
		if err := r.inside(&one, first[p], end[p]); err != nil {
			return err
		}
		if one.Start < one.End {
			r.bounds.Ranges = append(r.bounds.Ranges, one)
		}
	}
	return r.settled(ctx, topic)
}

// unknownPartitions refuses offsets of partitions that aren't there.
func (r *resolver) unknownPartitions(topic string, partitions []int32) error {
	for _, b := range []Bound{r.source.Start, r.source.Stop} {
		known := 0
		for _, p := range partitions {
			if _, ok := b.offset(topic, p); ok {
				known++
			}
		}
		if len(r.source.Topics) == 1 && known < len(b.Offsets) {
			return fmt.Errorf("topic %q has the partitions 0 to %d, and offsets are given for others", topic, len(partitions)-1)
		}
	}
	return nil
}

func (r *resolver) all(ctx context.Context, topic string, partitions []int32, at int64, committed bool) (map[int32]int64, error) {
	times := make(map[int32]int64, len(partitions))
	for _, p := range partitions {
		times[p] = at
	}
	return r.client.offsets(ctx, topic, times, committed)
}

// place finds a bound in every partition. Without one it is otherwise's; a time
// past the last record is the end.
func (r *resolver) place(ctx context.Context, topic string, partitions []int32, b Bound, otherwise, end map[int32]int64) (map[int32]int64, error) {
	at := map[int32]int64{}
	if b.Time != nil {
		var err error
		if at, err = r.all(ctx, topic, partitions, *b.Time, false); err != nil {
			return nil, err
		}
	}
	for _, p := range partitions {
		offset, said := b.offset(topic, p)
		switch {
		case said:
			at[p] = offset
		case b.Time == nil:
			at[p] = otherwise[p]
		case at[p] < 0 || at[p] > end[p]:
			at[p] = end[p]
		}
	}
	return at, nil
}

// inside sees that a range is within what the partition has.
func (r *resolver) inside(one *Range, first, end int64) error {
	name := partitionName(one.Topic, one.Partition)
	if one.End > end {
		return fmt.Errorf("%s ends at offset %d and is to be read to %d", name, end, one.End)
	}
	if one.Start < first {
		if !r.source.EarliestAvailable {
			return fmt.Errorf("%s: %w", name, gone(one.Start, first))
		}
		r.warn("%s: the records from %d to %d have been deleted; reading begins with %d", name, one.Start, first-1, first)
		one.Start = first
	}
	return nil
}

// settled makes sure that all ranges of the topic can be read to their ends,
// which an open transaction may prevent.
func (r *resolver) settled(ctx context.Context, topic string) error {
	if r.source.Uncommitted {
		return nil
	}
	mine := func(one Range) bool { return one.Topic == topic }
	from := slices.IndexFunc(r.bounds.Ranges, mine)
	if from < 0 {
		return nil
	}
	open := r.bounds.Ranges[from:]
	began := time.Now()
	for {
		stable, err := r.stable(ctx, topic, open)
		if err != nil {
			return err
		}
		var blocked []Range
		for _, one := range open {
			if stable[one.Partition] < one.End {
				blocked = append(blocked, one)
			}
		}
		if len(blocked) == 0 {
			return nil
		}
		switch cmp.Or(r.source.OpenTransactions, Exclude) {
		case Exclude:
			r.exclude(ctx, open, stable)
			r.bounds.Ranges = slices.DeleteFunc(r.bounds.Ranges, func(one Range) bool { return one.Start >= one.End })
			return nil
		case Refuse:
			return errors.New(r.openTransaction(ctx, blocked[0], stable[blocked[0].Partition]) +
				"; wait for its end (trestle.open.transactions=wait), or read up to it (exclude)")
		}
		if time.Since(began) > longestTransaction {
			return fmt.Errorf("%s, and has not ended within %s", r.openTransaction(ctx, blocked[0], stable[blocked[0].Partition]), longestTransaction)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// longestTransaction is more than brokers allow unless they are told to
// (transaction.max.timeout.ms).
const longestTransaction = 20 * time.Minute

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stable are the offsets before which all transactions have ended.
func (r *resolver) stable(ctx context.Context, topic string, ranges []Range) (map[int32]int64, error) {
	partitions := make([]int32, 0, len(ranges))
	for _, one := range ranges {
		partitions = append(partitions, one.Partition)
	}
	return r.all(ctx, topic, partitions, latest, true)
}

// exclude ends ranges before open transactions.
func (r *resolver) exclude(ctx context.Context, ranges []Range, stable map[int32]int64) {
	for i := range ranges {
		one := &ranges[i]
		if at := stable[one.Partition]; at < one.End {
			r.warn("%s; the offsets from there to %d are left out", r.openTransaction(ctx, *one, at), one.End-1)
			one.End = max(at, one.Start)
		}
	}
}

// openTransaction says which transaction is open at an offset. Its producer is
// in the batch there; if that can't be had, the offset must do.
func (r *resolver) openTransaction(ctx context.Context, one Range, at int64) string {
	name := fmt.Sprintf("%s: a transaction is open since offset %d", partitionName(one.Topic, one.Partition), at)
	answer, err := r.client.call(ctx, &fetchCall{
		topic: one.Topic, partition: one.Partition, offset: at, clientID: r.client.clientID, maxBytes: 1 << 10, minBytes: 1, waitMillis: 100,
	})
	if err != nil {
		return name
	}
	if b, _, err := cutBatch(answer.(*fetched).batches); err == nil && b.isTransactional() {
		return fmt.Sprintf("%s (producer %d, %s)", name, b.producer, time.UnixMilli(b.maxTime).UTC().Format(time.RFC3339))
	}
	return name
}

// limit cuts the ranges so that they hold MaxRecords records at most: offsets
// are not records, so they are counted by reading what is to be read.
func (r *resolver) limit(ctx context.Context) error {
	left := r.source.MaxRecords
	if left <= 0 {
		return nil
	}
	var kept []Range
	for _, one := range r.bounds.Ranges {
		if left == 0 {
			break
		}
		end, n, err := r.count(ctx, one, left)
		if err != nil {
			return err
		}
		left -= n
		if one.End = end; one.Start < one.End {
			kept = append(kept, one)
		}
	}
	r.bounds.Ranges = kept
	return nil
}

// errEnough ends a reading.
var errEnough = errors.New("enough")

// count finds where the first most records of a range end, and how many there
// are up to there.
func (r *resolver) count(ctx context.Context, one Range, most int64) (end, n int64, err error) {
	reading := Reading{Connection: r.source.Connection, Uncommitted: r.source.Uncommitted, FetchBytes: 1 << 20}
	end = one.End
	err = read(ctx, r.client, reading, one, func(b *batch, from, to int64) (bool, error) {
		err := b.each(func(rec *Record) error {
			if rec.Offset < from || rec.Offset >= to {
				return nil
			}
			if n++; n == most {
				end = rec.Offset + 1
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return false, nil
		}
		return err == nil, err
	})
	return end, n, err
}
