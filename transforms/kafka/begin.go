package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// A Reset says where a live reading starts in a partition of which nothing else
// is known: neither a Start nor an offset of its group.
type Reset string

const (
	// FromLatest starts with what comes; it is the default, as with Kafka's own
	// clients.
	FromLatest Reset = "latest"
	// FromEarliest starts with the first record that is there.
	FromEarliest Reset = "earliest"
	// FromNowhere is an error.
	FromNowhere Reset = "none"
)

// check tells what makes no sense.
func (l Live) check() error {
	var errs []error
	s := l.Source
	if s.Stop.Time != nil || s.Stop.Offsets != nil || s.MaxRecords != 0 || s.OpenTransactions != "" {
		errs = append(errs, errors.New("what is read without an end has no stop, no number of records and no open transactions to care for"))
	}
	if l.Commit && s.Group == "" {
		errs = append(errs, errors.New("offsets are to be committed, and no consumer group is named; give the consumer config group.id"))
	}
	if l.MaxDelay < 0 {
		errs = append(errs, errors.New("a negative delay makes no sense"))
	}
	return errors.Join(errs...)
}

// Resolve finds where the partitions that there are now begin; they all go on.
func (l Live) Resolve(ctx context.Context) (Bounds, error) {
	if err := l.check(); err != nil {
		return Bounds{}, err
	}
	return collect(ctx, l.Source, func(r *resolver, topics []string) error {
		for _, t := range topics {
			if err := r.liveTopic(ctx, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// liveTopic adds the partitions of one topic.
func (r *resolver) liveTopic(ctx context.Context, topic string) error {
	partitions, first, end, err := r.extent(ctx, topic)
	if err != nil {
		return err
	}
	last, err := r.all(ctx, topic, partitions, latest, !r.source.Uncommitted)
	if err != nil {
		return err
	}
	var left map[int32]int64 // where the group has left off
	if r.source.Group != "" {
		if left, err = r.client.groupOffsets(ctx, r.source.Group, topic, partitions); err != nil {
			return fmt.Errorf("topic %q: %w", topic, err)
		}
	}
	said, err := r.place(ctx, topic, partitions, r.source.Start, last, last)
	if err != nil {
		return err
	}
	for _, p := range partitions {
		one := Range{Topic: topic, Partition: p, End: unending}
		if _, exact := r.source.Start.offset(topic, p); exact || r.source.Start.Time != nil {
			if one.Start = said[p]; one.Start > end[p] {
				return fmt.Errorf("%s ends at offset %d and is to be read from %d on", partitionName(topic, p), end[p], one.Start)
			}
			err = r.inside(&one, first[p], unending)
		} else {
			one.Start, err = r.reset(one, left, first[p], end[p], last[p])
		}
		if err != nil {
			return err
		}
		r.bounds.Ranges = append(r.bounds.Ranges, one)
	}
	return nil
}

// reset is where a partition starts of which nothing was said: where the group
// has left off, if that is still there. Last is the end of what may be read now.
func (r *resolver) reset(one Range, left map[int32]int64, first, end, last int64) (int64, error) {
	name := partitionName(one.Topic, one.Partition)
	at, known := left[one.Partition]
	if known && at >= first && at <= end {
		return at, nil
	}
	how := cmp.Or(r.source.Reset, FromLatest)
	if how == FromNowhere {
		if known {
			return 0, fmt.Errorf("%s: the consumer group %q has left off at %d, and the partition has the offsets from %d to %d; auto.offset.reset=none allows no other start", name, r.source.Group, at, first, end)
		}
		return 0, fmt.Errorf("%s: no offset is known to start with, and auto.offset.reset=none allows no other start; say earliest or latest", name)
	}
	start := last
	if how == FromEarliest {
		start = first
	}
	if known {
		r.warn("%s: the consumer group %q has left off at %d, and the partition has the offsets from %d to %d; reading begins at %d (%s)", name, r.source.Group, at, first, end, start, how)
	}
	return start, nil
}
