package kafka

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

func init() {
	beam.RegisterType(reflect.TypeFor[eventFn]())
	beam.RegisterType(reflect.TypeFor[windowLineFn]())
	register.Function2x1(keyOf)
	register.Emitter3[beam.EventTime, []byte, []byte]()
}

const windowSize = 10 * time.Second

// countWindows is the program: it counts what comes by key and window, and writes
// a line for each to a topic.
func countWindows(s beam.Scope, pairs beam.PCollection, to kafka.Sink) {
	keys := beam.ParDo(s, keyOf, pairs)
	counts := stats.Count(s, beam.WindowInto(s, window.NewFixedWindows(windowSize), keys))
	to.Write(s, beam.ParDo(s, &windowLineFn{}, counts))
}

func keyOf(key, _ []byte) string { return string(key) }

type windowLineFn struct{}

func (*windowLineFn) ProcessElement(w beam.Window, key string, n int) ([]byte, []byte) {
	return []byte(key), []byte(windowLine(int64(w.(window.IntervalWindow).Start), key, n))
}

func windowLine(start int64, key string, n int) string {
	return fmt.Sprintf("%d %s %d", start, key, n)
}

// countEvents is what the program must give, in another way.
func countEvents(events []event) []string {
	counts := map[string]int{}
	for _, e := range events {
		start := e.at.UnixMilli() - e.at.UnixMilli()%windowSize.Milliseconds()
		counts[fmt.Sprintf("%d %s", start, e.key)]++
	}
	var lines []string
	for at, n := range counts {
		lines = append(lines, at+" "+strconv.Itoa(n))
	}
	slices.Sort(lines)
	return lines
}

// eventFn reads events of lines.
type eventFn struct{}

func (*eventFn) ProcessElement(line string, emit func(beam.EventTime, []byte, []byte)) error {
	at, key, _ := strings.Cut(line, " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return err
	}
	emit(mtime.FromMilliseconds(ms), []byte(key), []byte("v"))
	return nil
}

// yesterday is when the events of tests begin: on a window's edge, in the past,
// as with any data that is replayed.
func yesterday() time.Time { return time.Now().Add(-24 * time.Hour).Truncate(time.Minute) }

// history makes events for partitions, each in the order of time, over so many
// windows.
func history(partitions, each, windows int) (all []event) {
	chance := rand.New(rand.NewPCG(1, 2))
	begin := yesterday()
	span := time.Duration(windows) * windowSize
	for i := range each {
		for p := range partitions {
			at := begin.Add(span * time.Duration(i) / time.Duration(each)).Add(time.Duration(p) * 7 * time.Millisecond)
			all = append(all, event{int32(p), at.Truncate(time.Millisecond), fmt.Sprintf("k%d", chance.IntN(20))})
		}
	}
	return all
}

// TestLiveReplayFiles runs one program over a topic that is written meanwhile,
// over the same topic replayed, and over files: all give the same.
func TestLiveReplayFiles(t *testing.T) {
	b, tool := need(t)
	const partitions = 3
	events := history(partitions, 2000, 12)
	topic := newTopic(t, tool, partitions)
	job := serve(t)
	want := countEvents(events)

	// The windows that end before the last event of each partition are complete
	// while the job runs.
	last := events[len(events)-partitions].at.UnixMilli()
	var complete []string
	for _, line := range want {
		if start, _ := strconv.ParseInt(strings.Fields(line)[0], 10, 64); start+windowSize.Milliseconds() <= last {
			complete = append(complete, line)
		}
	}
	if len(complete) < len(want)/2 || len(complete) == len(want) {
		t.Fatalf("%d of %d lines are complete before the end", len(complete), len(want))
	}

	w := newWriter(t, b, topic)
	w.write(events[:len(events)/3]...)
	toLive := newTopic(t, tool, 2)
	fromLive := listen(t, b, toLive)
	p, s := beam.NewPipelineWithRoot()
	l := live(b, topic)
	l.IdleAfter, l.Commit, l.Source.Group = -1, true, "of "+topic
	countWindows(s, l.Pairs(s), sink(b, toLive))
	running := startLive(t, job, p)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for some := range slices.Chunk(events[len(events)/3:], 200) {
		w.write(some...)
		<-tick.C // as what comes in time
	}
	running.await(2*time.Minute, "the complete windows have come", func() bool { return len(fromLive.heard()) >= len(complete) })
	mustBe(t, fromLive.heard(), complete)
	running.await(2*time.Minute, "all has been read: a drain ends the reading where it is", func() bool {
		return least(groupOffsets(t, b, l.Source.Group, topic), partitions) == int64(len(events)/partitions)
	})
	running.drain()
	mustBe(t, fromLive.settled(t, len(want)), want)

	t.Run("replayed", func(t *testing.T) {
		to := newTopic(t, tool, 2)
		p, s := beam.NewPipelineWithRoot()
		countWindows(s, kafka.Replay{Source: source(b, topic)}.Pairs(s), sink(b, to))
		run(t, job, p)
		mustBe(t, listen(t, b, to).settled(t, len(want)), want)
	})
	t.Run("files", func(t *testing.T) {
		dir, to := t.TempDir(), newTopic(t, tool, 2)
		for p := range int32(partitions) {
			var text strings.Builder
			for _, e := range events {
				if e.partition == p {
					fmt.Fprintf(&text, "%d %s\n", e.at.UnixMilli(), e.key)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("events-%d.txt", p)), []byte(text.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p, s := beam.NewPipelineWithRoot()
		countWindows(s, beam.ParDo(s, &eventFn{}, textio.Read(s, filepath.Join(dir, "events-*.txt"))), sink(b, to))
		run(t, job, p)
		mustBe(t, listen(t, b, to).settled(t, len(want)), want)
	})
}

func sink(b *broker.Broker, topic string) kafka.Sink {
	return kafka.Sink{Connection: kafka.Connection{Servers: []string{b.Plain}}, Topic: topic}
}
