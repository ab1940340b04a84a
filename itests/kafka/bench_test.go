package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	benchPartitions = 4
	benchEach       = 1_000_000
	benchBytes      = 90 // and keys of 10
)

func init() { beam.RegisterType(reflect.TypeFor[countFn]()) }

// counted is what countFn has seen, in this process.
var counted atomic.Int64

// countFn counts records, a bundle at a time.
type countFn struct{ n int64 }

func (f *countFn) ProcessElement(_, _ []byte) { f.n++ }

func (f *countFn) FinishBundle() {
	counted.Add(f.n)
	f.n = 0
}

// BenchmarkReplay reads the same topic once by each way: kafka-go's low level in
// a plain loop, and franz-go, are the limits. One run each:
//
//	go test ./itests/kafka -kafka -run - -bench Replay -benchtime 1x
func BenchmarkReplay(b *testing.B) {
	br, tool := need(b)
	for _, codec := range []string{"none", "lz4"} {
		topic := newTopic(b, tool, benchPartitions)
		do(b, tool, "producer bench linger.ms=20 batch.size=262144 compression.type="+codec)
		for p := range benchPartitions {
			do(b, tool, fmt.Sprintf("bulk bench %s %d %d %d 0", topic, p, benchEach, benchBytes))
		}
		do(b, tool, "close bench")
		s := source(br, topic)
		bounds := resolve(b, s)
		ways := []struct {
			name string
			read func(ctx context.Context) (int64, error)
		}{
			{"trestle", func(ctx context.Context) (int64, error) { return byReadRange(ctx, s, bounds) }},
			{"kafka-go-fetch", func(ctx context.Context) (int64, error) { return byFetch(ctx, br.Plain, bounds) }},
			{"franz-go", func(ctx context.Context) (int64, error) { return byFranz(ctx, br.Plain, topic, bounds) }},
		}
		for _, way := range ways {
			b.Run(codec+"/"+way.name, func(b *testing.B) { measure(b, way.read) })
		}
		job := serve(b)
		b.Run(codec+"/pipeline", func(b *testing.B) {
			measure(b, func(context.Context) (int64, error) {
				counted.Store(0)
				p, scope := beam.NewPipelineWithRoot()
				beam.ParDo0(scope, &countFn{}, kafka.Replay{Source: s}.Pairs(scope))
				run(b, job, p)
				return counted.Load(), nil
			})
		})
	}
}

func measure(b *testing.B, read func(context.Context) (int64, error)) {
	for b.Loop() {
		cpu, began := ownCPU(), time.Now()
		n, err := read(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		took, used := time.Since(began).Seconds(), (ownCPU() - cpu).Seconds()
		if n != benchPartitions*benchEach {
			b.Fatalf("%d records, want %d", n, benchPartitions*benchEach)
		}
		b.ReportMetric(float64(n)/took/1e6, "Mrecords/s")
		b.ReportMetric(float64(n*(benchBytes+10))/took/1e6, "MB/s")
		b.ReportMetric(used*1e6/float64(n), "µsCPU/record")
	}
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // can't fail for the own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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

// byReadRange is the reader of the replay without Beam.
func byReadRange(ctx context.Context, s kafka.Source, bounds kafka.Bounds) (int64, error) {
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
func byFetch(ctx context.Context, servers string, bounds kafka.Bounds) (int64, error) {
	transport := &kafkago.Transport{}
	defer transport.CloseIdleConnections()
	return together(bounds, func(r kafka.Range) (int64, error) {
		var n int64
		for at := r.Start; at < r.End; {
			answer, err := transport.RoundTrip(ctx, kafkago.TCP(servers), &fetch.Request{
				ReplicaID: -1, MaxWaitTime: 500, MinBytes: 1, MaxBytes: 4 << 20, IsolationLevel: 1, SessionEpoch: -1,
				Topics: []fetch.RequestTopic{{Topic: r.Topic, Partitions: []fetch.RequestPartition{{
					Partition: r.Partition, CurrentLeaderEpoch: -1, FetchOffset: at, LogStartOffset: -1, PartitionMaxBytes: 4 << 20,
				}}}},
			})
			if err != nil {
				return n, err
			}
			p := answer.(*fetch.Response).Topics[0].Partitions[0]
			if p.ErrorCode != 0 {
				return n, kafkago.Error(p.ErrorCode)
			}
			for {
				rec, err := p.RecordSet.Records.ReadRecord()
				if err == io.EOF {
					break
				}
				if err != nil {
					return n, err
				}
				value, err := kafkago.ReadAll(rec.Value)
				if err != nil {
					return n, err
				}
				rec.Value.Close()
				if rec.Key != nil {
					rec.Key.Close()
				}
				if rec.Offset >= at && rec.Offset < r.End && value != nil {
					n++
				}
				at = max(at, rec.Offset+1)
			}
		}
		return n, nil
	})
}

// byFranz is franz-go's own loop.
func byFranz(ctx context.Context, servers, topic string, bounds kafka.Bounds) (int64, error) {
	starts := map[int32]kgo.Offset{}
	left := int64(0)
	for _, r := range bounds.Ranges {
		starts[r.Partition] = kgo.NewOffset().At(r.Start)
		left += r.End - r.Start
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(servers, ",")...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}),
		kgo.FetchMaxBytes(64<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		return 0, err
	}
	defer c.Close()
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
