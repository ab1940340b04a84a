package kafka

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() { beam.RegisterType(reflect.TypeFor[noteLineFn]()) }

// noteLineFn notes records as the Java consumer's lines have them.
type noteLineFn struct{ Name string }

func (f *noteLineFn) ProcessElement(m kafka.Message) {
	line := messageLine(m)
	notes.mu.Lock()
	defer notes.mu.Unlock()
	if notes.seen == nil {
		notes.seen = map[string][]string{}
	}
	notes.seen[f.Name] = append(notes.seen[f.Name], line)
}

func notingLines(l kafka.Live, name string) *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, &noteLineFn{name}, l.Messages(s))
	return p
}

// TestLiveBrokerAway kills the broker while a job reads, and starts it again: the
// job goes on, and reads each record once. One that stays away fails the job.
func TestLiveBrokerAway(t *testing.T) {
	need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	b, err := broker.Start(ctx, jars(t), t.TempDir(), broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Kill)
	tool, err := b.Tool()
	if err != nil {
		t.Fatal(err)
	}
	const partitions = 2
	topic, group := "away", "away"
	do(t, tool, fmt.Sprintf("topic %s %d", topic, partitions))
	tool.Close() // it doesn't, without a broker
	l := live(b, topic)
	l.Source.Group, l.Commit, l.Source.Connection.Patience = group, true, 40*time.Second
	l.Source.Connection.CallTimeout = 2 * time.Second
	first, _ := numbered(partitions, 0, 100)
	newWriter(t, b, topic).write(first...)
	running := startLive(t, serve(t), noting(l, "away"))
	running.await(time.Minute, "it reads", func() bool { return len(seen("away")) >= len(first) })
	b.Kill()
	away := time.NewTimer(3 * time.Second)
	<-away.C
	if err := b.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	more, _ := numbered(partitions, 100, 200)
	newWriter(t, b, topic).write(more...)
	_, want := numbered(partitions, 0, 200)
	running.await(time.Minute, "it goes on", func() bool { return len(seen("away")) >= len(want) })
	mustBe(t, seen("away"), want)

	b.Kill()
	err = running.failure(3 * time.Minute)
	for _, words := range []string{`topic "away"`, "still failing after 40s", b.Plain} {
		if !containsText(err, words) {
			t.Errorf("the error doesn't say %q:\n%v", words, err)
		}
	}
}

// TestLiveTransactions reads what an independent consumer reads: transactions
// when they have ended, those that were aborted never, and what is behind one
// that is open not before it ends.
func TestLiveTransactions(t *testing.T) {
	b, tool := need(t)
	topic := varied(t)
	before := flat(oracle(t, tool, topic))
	running := startLive(t, serve(t), notingLines(live(b, topic), topic))
	running.await(time.Minute, "what is committed is read", func() bool { return len(seen(topic)) >= len(before) })
	mustBe(t, seen(topic), before)
	do(t, tool, strings.ReplaceAll(`
		producer late-TOPIC transactional.id=late-TOPIC
		producer beside-TOPIC
		begin late-TOPIC
		bulk late-TOPIC TOPIC 0 50 50 90000
		flush late-TOPIC
		bulk beside-TOPIC TOPIC 0 50 50 91000
		bulk beside-TOPIC TOPIC 1 50 50 91000
		flush beside-TOPIC`, "TOPIC", topic))
	running.await(time.Minute, "the other partition is read", func() bool { return len(seen(topic)) >= len(before)+50 })
	if n := len(seen(topic)) - len(before); n != 50 {
		t.Errorf("%d records more are read, want the 50 of the partition without the open transaction", n)
	}
	do(t, tool, strings.ReplaceAll("commit late-TOPIC\nclose late-TOPIC\nclose beside-TOPIC", "TOPIC", topic))
	after := flat(oracle(t, tool, topic))
	if len(after) != len(before)+150 {
		t.Fatalf("%d records, want %d", len(after), len(before)+150)
	}
	running.await(time.Minute, "all is read", func() bool { return len(seen(topic)) >= len(after) })
	running.drain()
	mustBe(t, seen(topic), after)
}

// TestLiveManyPartitions reads more partitions than a bundle takes, each of which
// gets something now and then.
func TestLiveManyPartitions(t *testing.T) {
	b, tool := need(t)
	const partitions = 150
	topic := newTopic(t, tool, partitions)
	w := newWriter(t, b, topic)
	running := startLive(t, serve(t), noting(live(b, topic), topic))
	var want []string
	for round := range 4 {
		events, keys := numbered(partitions, round, round+1)
		w.write(events...)
		want = append(want, keys...)
		running.await(time.Minute, fmt.Sprintf("round %d is read", round), func() bool { return len(seen(topic)) >= len(want) })
	}
	running.drain()
	slices.Sort(want)
	mustBe(t, seen(topic), want)
}
