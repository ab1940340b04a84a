// Command kafka reads a topic once, by one of the ways that bench compares, and
// fails unless it has seen every record.
//
// With -way=fetch it is a plain loop over kafka-go's fetch with kafka-go's own
// types, with -way=franz the loop of franz-go, and with -way=reader Trestle's
// reader without Beam. None of them is a pipeline: they are what a machine gives
// at most. With -way=count a pipeline counts a replay, and with -way=windows it
// counts by key and window of event time; then it is client and LOOPBACK worker
// in one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	way     = flag.String("way", "count", "fetch, franz, reader, count or windows")
	servers = flag.String("brokers", "127.0.0.1:9092", "HOST:PORT of the cluster")
	topic   = flag.String("topic", "", "the topic")
	records = flag.Int64("records", 0, "that there are in it")
)

// fetchBytes is how much each of them asks for at a time, of a partition.
const fetchBytes = 4 << 20

func main() {
	flag.Parse()
	beam.Init()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	s := kafka.Source{
		Connection: kafka.Connection{Servers: strings.Split(*servers, ",")},
		Topics:     []string{*topic}, FetchBytes: fetchBytes,
	}
	switch *way {
	case "count":
		return count(ctx, s)
	case "windows":
		return windows(ctx, s)
	}
	ways := map[string]func(context.Context, kafka.Source, kafka.Bounds) (int64, error){
		"fetch": byFetch, "franz": byFranz, "reader": byReader,
	}
	read := ways[*way]
	if read == nil {
		return fmt.Errorf("-way=%s is not known", *way)
	}
	bounds, err := kafka.Resolve(ctx, s)
	if err != nil {
		return err
	}
	n, err := read(ctx, s, bounds)
	if err != nil {
		return err
	}
	return mustBe("records", n, *records)
}

func mustBe(what string, got, want int64) error {
	if got != want {
		return fmt.Errorf("%d %s, want %d", got, what, want)
	}
	return nil
}

// together reads all ranges at once and adds what they had.
func together(bounds kafka.Bounds, read func(r kafka.Range) (int64, error)) (int64, error) {
	var all atomic.Int64
	errs := make([]error, len(bounds.Ranges))
	var work sync.WaitGroup
	for i, r := range bounds.Ranges {
		work.Go(func() {
			n, err := read(r)
			all.Add(n)
			errs[i] = err
		})
	}
	work.Wait()
	return all.Load(), errors.Join(errs...)
}

// byReader is the reader of the replay without Beam.
func byReader(ctx context.Context, s kafka.Source, bounds kafka.Bounds) (int64, error) {
	return together(bounds, func(r kafka.Range) (n int64, err error) {
		err = kafka.ReadRange(ctx, s.Reading(), r, func(rec *kafka.Record) error {
			if rec.Value != nil {
				n++
			}
			return nil
		})
		return n, err
	})
}

// byFetch is a plain loop over kafka-go's fetch, with its own types.
func byFetch(ctx context.Context, _ kafka.Source, bounds kafka.Bounds) (int64, error) {
	transport := &kafkago.Transport{}
	defer transport.CloseIdleConnections()
	return together(bounds, func(r kafka.Range) (n int64, err error) {
		for at := r.Start; at < r.End; {
			answer, err := transport.RoundTrip(ctx, kafkago.TCP(strings.Split(*servers, ",")...), &fetch.Request{
				ReplicaID: -1, MaxWaitTime: 500, MinBytes: 1, MaxBytes: fetchBytes, IsolationLevel: 1, SessionEpoch: -1,
				Topics: []fetch.RequestTopic{{Topic: r.Topic, Partitions: []fetch.RequestPartition{{
					Partition: r.Partition, CurrentLeaderEpoch: -1, FetchOffset: at, LogStartOffset: -1, PartitionMaxBytes: fetchBytes,
				}}}},
			})
			if err != nil {
				return n, err
			}
			p := answer.(*fetch.Response).Topics[0].Partitions[0]
			if p.ErrorCode != 0 {
				return n, kafkago.Error(p.ErrorCode)
			}
			more, next, err := fetched(&p, at, r.End)
			if n += more; err != nil {
				return n, err
			}
			at = next
		}
		return n, nil
	})
}

// fetched counts the records of an answer that lie between two offsets, and
// tells where to go on.
func fetched(p *fetch.ResponsePartition, at, end int64) (n, next int64, err error) {
	for {
		rec, err := p.RecordSet.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return n, at, nil
		}
		if err != nil {
			return n, at, err
		}
		value, err := kafkago.ReadAll(rec.Value)
		if err != nil {
			return n, at, err
		}
		rec.Value.Close()
		if rec.Key != nil {
			rec.Key.Close()
		}
		if rec.Offset >= at && rec.Offset < end && value != nil {
			n++
		}
		at = max(at, rec.Offset+1)
	}
}

// byFranz is franz-go's own loop.
func byFranz(ctx context.Context, _ kafka.Source, bounds kafka.Bounds) (int64, error) {
	starts := map[int32]kgo.Offset{}
	left := int64(0)
	for _, r := range bounds.Ranges {
		starts[r.Partition] = kgo.NewOffset().At(r.Start)
		left += r.End - r.Start
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(*servers, ",")...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{*topic: starts}),
		kgo.FetchMaxBytes(64<<20), kgo.FetchMaxPartitionBytes(fetchBytes))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var n int64
	for n < left {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return n, err
		}
		f.EachRecord(func(r *kgo.Record) {
			if r.Value != nil {
				n++
			}
		})
	}
	return n, nil
}
