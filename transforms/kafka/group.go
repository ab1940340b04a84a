package kafka

import (
	"context"
	"errors"
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

// A groupKey names a group of a cluster.
type groupKey struct{ servers, group string }

// commits are what the readers of this process have told. A worker has several
// readers, and any of them may be given a partition.
var commits struct {
	mu    sync.Mutex
	last  map[commitKey]committed
	pause map[groupKey]time.Time // until when groups are left alone that couldn't be told
}

const (
	// commitEvery is how often a group is told of a partition at most, but for its
	// end.
	commitEvery = 500 * time.Millisecond
	// commitTime is what telling the group may take of a bundle, all of its
	// partitions together.
	commitTime = 5 * time.Second
	// commitAgain is the least pause after that went wrong, and commitRest how many
	// times as long as the failure it is: reading goes on meanwhile.
	commitAgain = 5 * time.Second
	commitRest  = 10
)

func (k commitKey) ofGroup() groupKey { return groupKey{k.servers, k.group} }

// due reports whether a group is to be told of an offset, and notes that it is.
func (k commitKey) due(offset int64, last bool) bool {
	now := time.Now()
	commits.mu.Lock()
	defer commits.mu.Unlock()
	was, known := commits.last[k]
	if known && was.offset == offset || !last && (now.Before(was.next) || now.Before(commits.pause[k.ofGroup()])) {
		return false
	}
	if commits.last == nil || len(commits.last) >= mostPlaces {
		commits.last = map[commitKey]committed{}
	}
	commits.last[k] = committed{offset: offset, next: now.Add(commitEvery)}
	return true
}

// failed has an offset told again later, after a call that took some time. The
// group's other partitions have the same coordinator, and wait, too.
func (k commitKey) failed(took time.Duration) {
	commits.mu.Lock()
	defer commits.mu.Unlock()
	delete(commits.last, k)
	if commits.pause == nil || len(commits.pause) >= mostPlaces {
		commits.pause = map[groupKey]time.Time{}
	}
	if until := time.Now().Add(max(commitAgain, commitRest*took)); until.After(commits.pause[k.ofGroup()]) {
		commits.pause[k.ofGroup()] = until
	}
}

// begin gives a new bundle its time for telling the group.
func (f *liveReader) begin() { f.commitLeft = min(commitTime, f.client.oneCall) }

// committed tells the group that the partition has been read up to where it goes
// on. A group that can't be told for now is told later: what is read again then,
// if a new job starts meanwhile, is what any consumer would read twice.
func (f *liveReader) committed(ctx context.Context, p Piece, rest Restriction) error {
	if f.Group == "" {
		return nil
	}
	k, last := commitKey{place: f.place(p), group: f.Group}, rest.End != unending
	if f.commitLeft <= 0 && !last || !k.due(rest.Start, last) {
		return nil
	}
	began := time.Now()
	err := f.tell(ctx, p, rest.Start)
	took := time.Since(began)
	f.commitLeft -= took
	if err == nil {
		return nil
	}
	k.failed(took)
	if !passing(err) {
		return fmt.Errorf("commit offsets to the consumer group %q: %w", f.Group, explain(err, f.client.servers))
	}
	log.Warnf(ctx, "kafka: offset %d of %s is not committed to the consumer group %q yet: %v", rest.Start, partitionName(p.Topic, p.Partition), f.Group, err)
	return nil
}

// errSlow is the error of a group that was not asked any more.
var errSlow = errors.New("its coordinator has taken all the time that a bundle has for it")

// tell commits an offset in what is left of the bundle's time for that.
func (f *liveReader) tell(ctx context.Context, p Piece, offset int64) error {
	if f.commitLeft <= 0 {
		return errSlow
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.commitLeft, errSlow)
	defer cancel()
	return f.client.commit(ctx, f.Group, p.Topic, p.Partition, offset)
}
