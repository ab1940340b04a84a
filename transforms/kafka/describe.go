package kafka

import (
	"context"
)

// A PartitionState is what a partition holds.
type PartitionState struct {
	Partition int32 `json:"partition"`
	// Start and End are the first offset and the one after the last; before Stable
	// no transaction is open.
	Start  int64 `json:"start"`
	End    int64 `json:"end"`
	Stable int64 `json:"stable"`
	// FirstTime and LastTime are of the batches at both ends, in milliseconds since
	// 1970; -1 if there is none.
	FirstTime int64 `json:"first_time"`
	LastTime  int64 `json:"last_time"`
	// Committed is how far the consumer group that was asked about has read: the
	// offset that it goes on with; -1 if it has said nothing, or none was asked
	// about.
	Committed int64 `json:"committed"`
}

// Lag is how many offsets the group has yet to read, of those before Stable; -1
// if it has said nothing. Offsets without a record count.
func (s PartitionState) Lag() int64 {
	if s.Committed < 0 {
		return -1
	}
	return max(0, s.Stable-max(s.Committed, s.Start))
}

// Describe tells what a topic's partitions hold now, and how far a consumer group
// has read them if one is named.
func Describe(ctx context.Context, to Connection, topic, group string) ([]PartitionState, error) {
	if err := validTopic(topic); err != nil {
		return nil, err
	}
	c, err := dial(to, topic)
	if err != nil {
		return nil, err
	}
	defer c.close()
	partitions, err := c.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	r := resolver{client: c}
	first, err := r.all(ctx, topic, partitions, earliest, false)
	if err != nil {
		return nil, err
	}
	end, err := r.all(ctx, topic, partitions, latest, false)
	if err != nil {
		return nil, err
	}
	stable, err := r.all(ctx, topic, partitions, latest, true)
	if err != nil {
		return nil, err
	}
	var read map[int32]int64
	if group != "" {
		if read, err = c.groupOffsets(ctx, group, topic, partitions); err != nil {
			return nil, err
		}
	}
	var all []PartitionState
	for _, p := range partitions {
		s := PartitionState{Partition: p, Start: first[p], End: end[p], Stable: stable[p], FirstTime: timeUnknown, LastTime: timeUnknown, Committed: offsetUnknown}
		if at, ok := read[p]; ok {
			s.Committed = at
		}
		if s.Start < s.End {
			s.FirstTime = c.timeAt(ctx, topic, p, s.Start)
			s.LastTime = c.timeAt(ctx, topic, p, s.End-1)
		}
		all = append(all, s)
	}
	return all, nil
}

// timeAt is the greatest time of the batch with or after an offset, -1 if that
// can't be had.
func (c *client) timeAt(ctx context.Context, topic string, partition int32, offset int64) int64 {
	answer, err := c.call(ctx, &fetchCall{topic: topic, partition: partition, offset: offset, clientID: c.clientID, maxBytes: 1 << 10, minBytes: 1, waitMillis: 100})
	if err != nil {
		return timeUnknown
	}
	b, _, err := cutBatch(answer.(*fetched).batches)
	if err != nil {
		return timeUnknown
	}
	return b.maxTime
}
