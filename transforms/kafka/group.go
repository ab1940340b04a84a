package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
)

// groupOffsets are those that a consumer group has committed of a topic's
// partitions; those of which it has committed none are missing.
func (c *client) groupOffsets(ctx context.Context, group, topic string, partitions []int32) (map[int32]int64, error) {
	t := trial{client: c}
	for {
		all, err := c.groupOffsetsOnce(ctx, group, topic, partitions)
		if err == nil {
			return all, nil
		}
		if err := t.again(ctx, err); err != nil {
			return nil, fmt.Errorf("offsets of the consumer group %q: %w", group, explain(err, c.servers))
		}
	}
}

func (c *client) groupOffsetsOnce(ctx context.Context, group, topic string, partitions []int32) (map[int32]int64, error) {
	answer, err := c.call(ctx, &offsetfetch.Request{
		GroupID: group, Topics: []offsetfetch.RequestTopic{{Name: topic, PartitionIndexes: partitions}},
	})
	if err != nil {
		return nil, err
	}
	found := answer.(*offsetfetch.Response)
	if found.ErrorCode != 0 {
		return nil, kafkago.Error(found.ErrorCode)
	}
	all := map[int32]int64{}
	for _, t := range found.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, kafkago.Error(p.ErrorCode)
			}
			if t.Name == topic && p.CommittedOffset >= 0 {
				all[p.PartitionIndex] = p.CommittedOffset
			}
		}
	}
	return all, nil
}

// commit tells a group's coordinator how far a partition has been read. Like a
// consumer that assigns itself its partitions it is no member of the group.
func (c *client) commit(ctx context.Context, group, topic string, partition int32, offset int64) error {
	answer, err := c.call(ctx, &offsetcommit.Request{
		GroupID: group, GenerationID: -1, RetentionTimeMs: -1,
		Topics: []offsetcommit.RequestTopic{{Name: topic, Partitions: []offsetcommit.RequestPartition{{
			PartitionIndex: partition, CommittedOffset: offset, CommittedLeaderEpoch: -1,
		}}}},
	})
	if err != nil {
		return err
	}
	for _, t := range answer.(*offsetcommit.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return kafkago.Error(p.ErrorCode)
			}
		}
	}
	return nil
}

// A commitKey names an offset of a group.
type commitKey struct {
	place
	group string
}

// A committed is what was told of a partition last.
type committed struct {
	offset int64
	next   time.Time // not before is it told again
}

// commits are what the readers of this process have told. A worker has several
// readers, and any of them may be given a partition.
var commits struct {
	mu   sync.Mutex
	last map[commitKey]committed
}

const (
	// commitEvery is how often a group is told of a partition at most, but for its
	// end; commitAgain is the pause after that went wrong.
	commitEvery = 500 * time.Millisecond
	commitAgain = 5 * time.Second
)

// due reports whether a group is to be told of an offset, and notes that it is.
func (k commitKey) due(offset int64, last bool) bool {
	now := time.Now()
	commits.mu.Lock()
	defer commits.mu.Unlock()
	was, known := commits.last[k]
	if known && (was.offset == offset || !last && now.Before(was.next)) {
		return false
	}
	if commits.last == nil || len(commits.last) >= mostPlaces {
		commits.last = map[commitKey]committed{}
	}
	commits.last[k] = committed{offset: offset, next: now.Add(commitEvery)}
	return true
}

// failed has an offset told again later.
func (k commitKey) failed() {
	commits.mu.Lock()
	defer commits.mu.Unlock()
	commits.last[k] = committed{offset: -1, next: time.Now().Add(commitAgain)}
}

// committed tells the group that the partition has been read up to where it goes
// on. A group that can't be told for now is told later: what is read again then,
// if a new job starts meanwhile, is what any consumer would read twice.
func (f *liveReader) committed(ctx context.Context, p Piece, rest Restriction) error {
	if f.Group == "" {
		return nil
	}
	k := commitKey{place: f.place(p), group: f.Group}
	if !k.due(rest.Start, rest.End != unending) {
		return nil
	}
	err := f.client.commit(ctx, f.Group, p.Topic, p.Partition, rest.Start)
	if err == nil {
		return nil
	}
	k.failed()
	if !passing(err) {
		return fmt.Errorf("commit offsets to the consumer group %q: %w", f.Group, explain(err, f.client.servers))
	}
	log.Warnf(ctx, "kafka: offset %d of %s is not committed to the consumer group %q yet: %v", rest.Start, partitionName(p.Topic, p.Partition), f.Group, err)
	return nil
}
