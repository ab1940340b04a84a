package kafka

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/twmb/franz-go/pkg/kgo"
)

const catchPartitions = 4

// A catchTopic has so many records in each of its partitions.
type catchTopic struct{ each, keys int }

func (c catchTopic) records() int { return catchPartitions * c.each }

var (
	fewKeys    = catchTopic{each: 2_000_000, keys: 1000}
	manyKeys   = catchTopic{each: 1_000_000, keys: 100_000}
	pythonKeys = catchTopic{each: 100_000, keys: 10_000}
)

func init() {
	beam.RegisterType(reflect.TypeFor[groupLineFn]())
	register.Iter1[[]byte]()
}

// BenchmarkCatchUp runs programs over what a topic holds, replayed and live: they
// count the records, count them by key and window, with a combiner and as groups,
// and in Python count each key's in a state. A live job has caught up when it has
// counted all, or given all windows that are complete. One run each:
//
//	go test ./itests/kafka -kafka -run - -bench CatchUp -benchtime 1x
func BenchmarkCatchUp(b *testing.B) {
	br, tool := need(b)
	job := serve(b)
	b.Run("count", func(b *testing.B) {
		topic := newTopic(b, tool, catchPartitions)
		fewKeys.fill(b, br, topic)
		catchUpCounting(b, br, job, topic)
	})
	for _, c := range []catchTopic{fewKeys, manyKeys} {
		b.Run(fmt.Sprintf("keys=%d", c.keys), func(b *testing.B) {
			topic := newTopic(b, tool, catchPartitions)
			complete := c.fill(b, br, topic)
			for _, program := range []struct {
				name  string
				build func(s beam.Scope, pairs beam.PCollection, to kafka.Sink)
			}{{"windows", countWindows}, {"groups", groupWindows}} {
				b.Run(program.name+"/replay", func(b *testing.B) {
					to := newTopic(b, tool, 1)
					r := kafka.Replay{Source: source(br, topic)}
					catchUp(b, c.records(), func() {
						p, s := beam.NewPipelineWithRoot()
						program.build(s, r.Pairs(s), sink(br, to))
						run(b, job, p)
					})
				})
				b.Run(program.name+"/live", func(b *testing.B) {
					to := newTopic(b, tool, 1)
					heard := listen(b, br, to)
					l := live(br, topic)
					l.IdleAfter = -1
					var running *liveJob
					catchUp(b, c.records(), func() {
						p, s := beam.NewPipelineWithRoot()
						program.build(s, l.Pairs(s), sink(br, to))
						running = startLive(b, job, p)
						running.await(5*time.Minute, "the complete windows have come", func() bool { return heard.count() >= complete })
					})
					running.drain()
				})
			}
		})
	}
	b.Run("python", func(b *testing.B) {
		topic := newTopic(b, tool, catchPartitions)
		pythonKeys.fill(b, br, topic)
		catchUpInPython(b, br, tool, job, topic)
	})
}

func catchUpCounting(b *testing.B, br *broker.Broker, job, topic string) {
	all := fewKeys.records()
	b.Run("replay", func(b *testing.B) {
		r := kafka.Replay{Source: source(br, topic)}
		catchUp(b, all, func() {
			p, s := beam.NewPipelineWithRoot()
			beam.ParDo0(s, &countFn{}, r.Pairs(s))
			run(b, job, p)
			if n := counted.Load(); n != int64(all) {
				b.Fatalf("%d records", n)
			}
		})
	})
	b.Run("live", func(b *testing.B) {
		l := live(br, topic)
		l.IdleAfter = -1
		var running *liveJob
		catchUp(b, all, func() {
			p, s := beam.NewPipelineWithRoot()
			beam.ParDo0(s, &countFn{}, l.Pairs(s))
			running = startLive(b, job, p)
			running.await(5*time.Minute, "all is counted", func() bool { return counted.Load() >= int64(all) })
		})
		running.drain()
	})
}

// catchUpInPython has a line for each key, once all of it is counted. Its times
// are from the start of the program, which imports for two seconds.
func catchUpInPython(b *testing.B, br *broker.Broker, tool *broker.Tool, job, topic string) {
	each := fmt.Sprint(pythonKeys.records() / pythonKeys.keys)
	b.Run("replay", func(b *testing.B) {
		to := newTopic(b, tool, 1)
		heard := listen(b, br, to)
		catchUp(b, pythonKeys.records(), func() {
			if said, err := pythonScript(b, "state.py", job, br.Plain, topic, to, each, "replay", "pythonreplay"); err != nil {
				b.Fatalf("%v\n%s", err, said)
			}
		})
		await(b, time.Minute, "all keys have come", func() bool { return heard.count() == pythonKeys.keys })
	})
	b.Run("live", func(b *testing.B) {
		to := newTopic(b, tool, 1)
		heard := listen(b, br, to)
		var running *liveJob
		catchUp(b, pythonKeys.records(), func() {
			running, _ = startLivePython(b, job, "pythonlive", "state.py", job, br.Plain, topic, to, each, "live", "pythonlive")
			running.await(5*time.Minute, "all keys have come", func() bool { return heard.count() == pythonKeys.keys })
		})
		running.drain()
	})
}

// catchUp measures one run.
func catchUp(b *testing.B, records int, run func()) {
	for b.Loop() {
		counted.Store(0)
		began := time.Now()
		run()
		b.ReportMetric(float64(records)/time.Since(began).Seconds()/1e6, "Mrecords/s")
	}
}

// groupWindows is countWindows without a combiner: all values of a key and window
// come together.
func groupWindows(s beam.Scope, pairs beam.PCollection, to kafka.Sink) {
	groups := beam.GroupByKey(s, beam.WindowInto(s, window.NewFixedWindows(windowSize), pairs))
	to.Write(s, beam.ParDo(s, &groupLineFn{}, groups))
}

type groupLineFn struct{}

func (*groupLineFn) ProcessElement(w beam.Window, key []byte, values func(*[]byte) bool) ([]byte, []byte) {
	n := 0
	for v := []byte(nil); values(&v); {
		n++
	}
	return key, []byte(windowLine(int64(w.(window.IntervalWindow).Start), string(key), n))
}

// fill writes events over ten minutes, each partition's in order, and returns how
// many lines are complete before the last.
func (c catchTopic) fill(b *testing.B, br *broker.Broker, topic string) (complete int) {
	client, err := kgo.NewClient(kgo.SeedBrokers(br.Plain), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(20*time.Millisecond), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	begin, span := yesterday(), 10*time.Minute
	value := slices.Repeat([]byte{'v'}, 90)
	windows := map[string]bool{}
	for i := range int64(c.each) {
		at := begin.Add(span * time.Duration(i) / time.Duration(c.each))
		for p := range int32(catchPartitions) {
			key := fmt.Sprintf("key%07d", (i*7+int64(p)*13)%int64(c.keys))
			client.Produce(context.Background(), &kgo.Record{Partition: p, Timestamp: at, Key: []byte(key), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					b.Error(err)
				}
			})
			if at.Before(begin.Add(span - windowSize)) {
				windows[fmt.Sprint(at.UnixMilli()/windowSize.Milliseconds(), key)] = true
			}
		}
	}
	if err := client.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	return len(windows)
}
