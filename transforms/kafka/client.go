package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
)

// A client talks to one cluster. It may be used by many goroutines.
type client struct {
	servers   net.Addr
	clientID  string
	transport *kafkago.Transport
	// patience bounds how long something may go wrong before it is an error.
	patience time.Duration
	// oneCall bounds one request and its answer.
	oneCall time.Duration
}

// layoutAge is how long the leaders of partitions are taken for known.
const layoutAge = 2 * time.Second

// dial makes a client for the topics. It connects when it is first used.
func dial(c Connection, topics ...string) (*client, error) {
	if len(c.Servers) == 0 {
		return nil, errors.New("bootstrap.servers is missing; give the consumer or producer config bootstrap.servers=HOST:PORT")
	}
	var security *tls.Config
	var mechanism sasl.Mechanism
	var err error
	if security, err = c.tlsConfig(); err != nil {
		return nil, err
	}
	if mechanism, err = c.mechanism(); err != nil {
		return nil, err
	}
	id := cmp.Or(c.ClientID, "trestle")
	return &client{
		servers:  kafkago.TCP(c.Servers...),
		clientID: id,
		transport: &kafkago.Transport{
			Dial:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			DialTimeout:    15 * time.Second,
			IdleTimeout:    time.Minute,
			MetadataTTL:    layoutAge,
			MetadataTopics: slices.Clone(topics),
			ClientID:       id,
			TLS:            security,
			SASL:           mechanism,
		},
		patience: cmp.Or(c.Patience, time.Minute),
		oneCall:  cmp.Or(c.CallTimeout, 30*time.Second),
	}, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// call sends one request.
func (c *client) call(ctx context.Context, m protocol.Message) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, c.oneCall)
	defer cancel()
	return c.transport.RoundTrip(ctx, c.servers, m)
}

// A trial is something that is tried again while that may help.
type trial struct {
	client *client
	since  time.Time // of the first failure; zero if none
	pause  time.Duration
}

// again waits before another try after err, or returns the error that ends the
// trying.
func (t *trial) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !passing(err) {
		return err
	}
	now := time.Now()
	if t.since.IsZero() {
		t.since, t.pause = now, 100*time.Millisecond
	}
	if now.Sub(t.since) > t.client.patience {
		return fmt.Errorf("still failing after %s: %w", t.client.patience, err)
	}
	wait := time.NewTimer(t.pause/2 + rand.N(t.pause))
	defer wait.Stop()
	t.pause = min(2*t.pause, 2*time.Second)
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// over forgets the failures.
func (t *trial) over() { t.since = time.Time{} }

// A permanentError isn't worth another try.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// passing reports whether another try may succeed. What isn't known to be
// lasting passes: networks have many errors.
func passing(err error) bool {
	var lasting permanentError
	if errors.As(err, &lasting) {
		return false
	}
	var code kafkago.Error
	if errors.As(err, &code) {
		return code.Temporary() || code == kafkago.BrokerNotAvailable || code == kafkago.ReplicaNotAvailable || code == kafkago.Unknown
	}
	var refused *tls.CertificateVerificationError
	return !errors.As(err, &refused)
}

// partitions tells a topic's partitions in order. A topic may be younger than
// what we know, so that one that is unknown is asked for again a few times.
func (c *client) partitions(ctx context.Context, topic string) ([]int32, error) {
	t := trial{client: c}
	unknown := 0
	for {
		ids, err := c.partitionsOnce(ctx, topic)
		if err == nil {
			return ids, nil
		}
		if errors.Is(err, kafkago.UnknownTopicOrPartition) {
			if unknown++; unknown > 4 {
				return nil, fmt.Errorf("topic %q: the brokers at %s don't know it", topic, c.servers)
			}
		}
		if err := t.again(ctx, err); err != nil {
			return nil, fmt.Errorf("topic %q: %w", topic, explain(err, c.servers))
		}
	}
}

// explain names the brokers where a cause would say too little.
func explain(err error, servers net.Addr) error {
	switch {
	case errors.Is(err, kafkago.SASLAuthenticationFailed):
		return fmt.Errorf("the brokers at %s refuse the credentials: %w", servers, err)
	case errors.Is(err, kafkago.UnsupportedSASLMechanism):
		return fmt.Errorf("the brokers at %s don't offer this sasl.mechanism: %w", servers, err)
	}
	return fmt.Errorf("brokers at %s: %w", servers, err)
}

func (c *client) partitionsOnce(ctx context.Context, topic string) ([]int32, error) {
	answer, err := c.call(ctx, &metadata.Request{TopicNames: []string{topic}})
	if err != nil {
		return nil, err
	}
	for _, t := range answer.(*metadata.Response).Topics {
		if t.Name != topic {
			continue
		}
		if t.ErrorCode != 0 {
			return nil, kafkago.Error(t.ErrorCode)
		}
		ids := make([]int32, 0, len(t.Partitions))
		for _, p := range t.Partitions {
			ids = append(ids, p.PartitionIndex)
		}
		slices.Sort(ids)
		return ids, nil
	}
	return nil, kafkago.UnknownTopicOrPartition
}

// Times that stand for offsets in list calls.
const (
	earliest int64 = -2
	latest   int64 = -1
)

// askTogether is how many partitions are asked about at a time: each of them
// takes a connection.
const askTogether = 16

// offsets tells the first offset at or after a time in each of the partitions,
// or of earliest or latest. Where there is none it is -1. Latest is the end of
// what may be read: with committed that is the last stable offset.
func (c *client) offsets(ctx context.Context, topic string, at map[int32]int64, committed bool) (map[int32]int64, error) {
	all := make(map[int32]int64, len(at))
	left := slices.Sorted(maps.Keys(at))
	t := trial{client: c}
	for len(left) > 0 {
		some := left[:min(len(left), askTogether)]
		var failed []int32
		err := c.offsetsOnce(ctx, topic, at, some, committed, all)
		for _, p := range some {
			if _, ok := all[p]; !ok {
				failed = append(failed, p)
			}
		}
		left = append(left[len(some):len(left):len(left)], failed...)
		if err == nil {
			t.over()
			continue
		}
		if err := t.again(ctx, err); err != nil {
			return nil, explain(err, c.servers)
		}
	}
	return all, nil
}

// offsetsOnce asks about some partitions and puts what it is told into all.
func (c *client) offsetsOnce(ctx context.Context, topic string, at map[int32]int64, some []int32, committed bool, all map[int32]int64) error {
	req := &listoffsets.Request{ReplicaID: -1, Topics: []listoffsets.RequestTopic{{Topic: topic}}}
	if committed {
		req.IsolationLevel = 1
	}
	for _, p := range some {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions,
			listoffsets.RequestPartition{Partition: p, CurrentLeaderEpoch: -1, Timestamp: at[p]})
	}
	answer, err := c.call(ctx, req)
	if err != nil {
		return fmt.Errorf("offsets of topic %q: %w", topic, err)
	}
	var failed error
	for _, t := range answer.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				failed = fmt.Errorf("offsets of %s: %w", partitionName(topic, p.Partition), kafkago.Error(p.ErrorCode))
				continue
			}
			all[p.Partition] = p.Offset
		}
	}
	if failed == nil {
		for _, p := range some {
			if _, ok := all[p]; !ok {
				return fmt.Errorf("offsets of %s: no answer", partitionName(topic, p))
			}
		}
	}
	return failed
}

// partitionName is how people know a partition.
func partitionName(topic string, partition int32) string {
	return fmt.Sprintf("partition %d of topic %q", partition, topic)
}

// validTopic keeps out names that Kafka doesn't allow, so that a name can be
// part of a text without quotes.
func validTopic(name string) error {
	odd := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	})
	if name == "" || name == "." || name == ".." || len(name) > 249 || odd {
		return fmt.Errorf("%q is not a topic's name: letters, digits, '.', '_' and '-', at most 249", name)
	}
	return nil
}
