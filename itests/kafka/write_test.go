package kafka

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

// copied replays one topic into another.
func copied(t *testing.T, job string, from kafka.Source, to kafka.Sink) error {
	t.Helper()
	for name, value := range map[string]string{"endpoint": job, "environment_type": "LOOPBACK"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, errors.New("the job has not ended in time"))
	defer cancel()
	p, s := beam.NewPipelineWithRoot()
	to.WriteMessages(s.Scope("Results"), kafka.Replay{Source: from}.Messages(s))
	_, err := universal.Execute(ctx, p)
	return err
}

// TestBadOutput writes what can't be written: the error names transform, topic
// and, where there is one, partition, in bounded time.
func TestBadOutput(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	from := newTopic(t, tool, 1, "max.message.bytes=20000000")
	do(t, tool, "producer large buffer.memory=100000000\nbulk large "+from+" 0 2 2000000 0\nclose large")
	small := newTopic(t, tool, 1, "max.message.bytes=100000")
	to := func(topic string) kafka.Sink {
		return kafka.Sink{Connection: kafka.Connection{Servers: []string{b.Plain}, Patience: time.Second}, Topic: topic}
	}
	away := to(small)
	away.Connection.Servers = []string{"127.0.0.1:1"}
	for name, test := range map[string]struct {
		sink kafka.Sink
		want string
	}{
		"unknown topic": {to("nothing-here"), `topic "nothing-here": the brokers at ` + b.Plain + ` don't know it`},
		"too large":     {to(small), `write to partition 0 of topic "` + small + `": [10] Message Size Too Large`},
		"brokers away":  {away, `topic "` + small + `": brokers at 127.0.0.1:1: still failing after 1s`},
	} {
		t.Run(name, func(t *testing.T) {
			err := copied(t, job, source(b, from), test.sink)
			if err == nil {
				t.Fatal("the job has not failed")
			}
			for _, want := range []string{test.want, "Results/kafka.WriteMessages"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error doesn't say %q:\n%.3000s", want, err)
				}
			}
		})
	}
}

// TestWriteLarge writes records of 10 MB, which are larger than a batch is to be,
// each once: nobody is killed.
func TestWriteLarge(t *testing.T) {
	b, tool := need(t)
	from, to := newTopic(t, tool, 1, "max.message.bytes=20000000"), newTopic(t, tool, 1, "max.message.bytes=20000000")
	do(t, tool, "producer large buffer.memory=100000000\nbulk large "+from+" 0 3 10000000 0\nclose large")
	if err := copied(t, serve(t), source(b, from), kafka.Sink{Connection: source(b).Connection, Topic: to}); err != nil {
		t.Fatal(err)
	}
	mustBe(t, after(oracle(t, tool, to)[0], 2), after(oracle(t, tool, from)[0], 2))
}

// TestSecuredJob reads and writes in a job over TLS with a password, which is in
// nothing that the server keeps of the job's course.
func TestSecuredJob(t *testing.T) {
	b, tool := need(t)
	from, to := newTopic(t, tool, 2), newTopic(t, tool, 2)
	do(t, tool, "producer sj\nbulk sj "+from+" 0 100 20 0\nbulk sj "+from+" 1 100 20 100\nclose sj")
	config := map[string]string{
		"bootstrap.servers": b.Secured, "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
		"sasl.jaas.config": `org.apache.kafka.common.security.scram.ScramLoginModule required username="` + broker.User +
			`" password="` + strings.ReplaceAll(broker.Password, `"`, `\"`) + `";`,
		"ssl.truststore.type": "PEM", "ssl.truststore.certificates": b.Authority,
	}
	s, err := kafka.ParseConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Topics = []string{from}
	k, err := kafka.ParseProducer(config)
	if err != nil {
		t.Fatal(err)
	}
	k.Topic = to
	dir := t.TempDir()
	if err := copied(t, serveIn(t, dir), s, k); err != nil {
		t.Fatal(err)
	}
	mustBe(t, after(flat(oracle(t, tool, to)), 2), after(flat(oracle(t, tool, from)), 2))
	holdsNot(t, dir, broker.Password)
}

// TestRetention reads where the broker itself has deleted segments: what is
// there is read whole, and who asks for what is gone is told so.
func TestRetention(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1, "segment.bytes=50000", "retention.bytes=150000", "retention.ms=-1")
	do(t, tool, "producer ret\nbulk ret "+topic+" 0 100 900 0\nflush ret")
	s := source(b, topic)
	before := resolve(t, s).Ranges[0]
	do(t, tool, "bulk ret "+topic+" 0 900 900 100\nclose ret")
	deadline := time.After(time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for resolve(t, s).Ranges[0].Start < before.End {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the broker has not deleted a segment")
		}
	}
	// The broker may go on between the two.
	same := false
	for range 5 {
		got, want := readAll(t, s, resolve(t, s)), oracle(t, tool, topic)
		if same = slices.Equal(got[0], want[0]) && len(got[0]) > 0; same {
			t.Logf("%d of 1000 records are there", len(got[0]))
			break
		}
	}
	if !same {
		t.Error("never what the Java consumer reads")
	}
	s.Start.Offsets = map[string]int64{"0": 0}
	if _, err := kafka.Resolve(t.Context(), s); err == nil || !strings.Contains(err.Error(), "have been deleted") {
		t.Errorf("resolving gave %v", err)
	}
	err := kafka.ReadRange(t.Context(), s.Reading(), before, func(*kafka.Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `partition 0 of topic "`+topic+`"`) || !strings.Contains(err.Error(), "have been deleted") {
		t.Errorf("reading gave %v", err)
	}
}
