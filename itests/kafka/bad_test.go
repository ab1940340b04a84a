package kafka

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

// fails runs a replay that must fail, soon, with an error that says all this:
// first of all which transform it was.
func fails(t *testing.T, job string, r kafka.Replay, want ...string) {
	t.Helper()
	for name, value := range map[string]string{"endpoint": job, "environment_type": "LOOPBACK"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, errors.New("the job has not failed in time"))
	defer cancel()
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, &countFn{}, r.Pairs(s.Scope("Clicks")))
	_, err := universal.Execute(ctx, p)
	if err == nil {
		t.Fatalf("the job has not failed, with %q", want)
	}
	for _, w := range append(want, "Clicks/kafka.Pairs") {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error doesn't say %q:\n%.3000s", w, err)
		}
	}
}

// TestBadInput asks for what can't be had.
func TestBadInput(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, "producer bad\nbulk bad "+topic+" 1 100 20 0\nclose bad")

	t.Run("unknown topic", func(t *testing.T) {
		fails(t, job, kafka.Replay{Source: source(b, "nothing-here")}, `topic "nothing-here": the brokers at `+b.Plain+` don't know it`)
	})
	t.Run("brokers away", func(t *testing.T) {
		s := source(b, topic)
		s.Connection.Servers = []string{"127.0.0.1:1"}
		s.Connection.Patience = time.Second
		fails(t, job, kafka.Replay{Source: s}, `topic "`+topic+`": brokers at 127.0.0.1:1: still failing after 1s`)
	})
	t.Run("brokers gone before they are read from", func(t *testing.T) {
		s := source(b, topic)
		bounds := resolve(t, s)
		s.Connection.Servers = []string{"127.0.0.1:1"}
		s.Connection.Patience = time.Second
		fails(t, job, kafka.Replay{Source: s, Bounds: &bounds}, `partition 1 of topic "`+topic+`" at offset `, "still failing after 1s", "127.0.0.1:1")
	})
	t.Run("all records deleted", func(t *testing.T) {
		s := source(b, topic)
		bounds := resolve(t, s)
		s.Start.Offsets = map[string]int64{"1": 0}
		gone := newTopic(t, tool, 1)
		do(t, tool, "producer gone\nbulk gone "+gone+" 0 100 20 0\nclose gone\ndelete "+gone+" 0 100")
		s.Topics = []string{gone}
		s.Start.Offsets = map[string]int64{"0": 10}
		fails(t, job, kafka.Replay{Source: s}, `partition 0 of topic "`+gone+`"`, "the records from 10 to 99 have been deleted")

		// The same when it happens after the bounds were settled.
		do(t, tool, "delete "+topic+" 1 100")
		fails(t, job, kafka.Replay{Source: source(b, topic), Bounds: &bounds}, `partition 1 of topic "`+topic+`"`, "to 99 have been deleted") // the piece that was read first may be a part
	})
	t.Run("less than was asked for", func(t *testing.T) {
		s := source(b, topic)
		s.Stop.Offsets = map[string]int64{"1": 1000}
		fails(t, job, kafka.Replay{Source: s}, `partition 1 of topic "`+topic+`" ends at offset 100 and is to be read to 1000`)
	})
	t.Run("no such time", func(t *testing.T) {
		late := newTopic(t, tool, 1, "message.timestamp.type=LogAppendTime")
		do(t, tool, "producer late\nbulk late "+late+" 0 1 20 0\nclose late")
		fails(t, job, kafka.Replay{Source: source(b, late)}, `partition 0 of topic "`+late+`": record 0 has a LogAppendTime, and the timestamp policy is CreateTime`)
	})
}

// TestRefusedCredentials fails without showing what it was given, neither in the
// error nor in anything that is kept in the clear of the job's course.
func TestRefusedCredentials(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1)
	dir := t.TempDir()
	job := serveIn(t, dir)
	const secret = "a-secret-that-is-wrong"
	s, err := kafka.ParseConsumer(map[string]string{
		"bootstrap.servers": b.Secured, "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN",
		"sasl.jaas.config":    `org.apache.kafka.common.security.plain.PlainLoginModule required username="reader" password="` + secret + `";`,
		"ssl.truststore.type": "PEM", "ssl.truststore.certificates": b.Authority, "default.api.timeout.ms": "5000",
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Topics = []string{topic}
	fails(t, job, kafka.Replay{Source: s}, `topic "`+topic+`": the brokers at `+b.Secured+` refuse the credentials`)
	holdsNot(t, dir, secret)
}

// holdsNot sees that no log, journal or message of a server has a secret in it.
// Pipelines and plans have it: workers need it.
func holdsNot(t *testing.T, dir, secret string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.Contains(path, string(filepath.Separator)+"blobs"+string(filepath.Separator)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil // it is of the moment
		}
		seen++
		if strings.Contains(string(text), secret) {
			t.Errorf("%s has the secret in it", path)
		}
		return nil
	})
	if err != nil || seen < 3 {
		t.Errorf("%d files were looked through: %v", seen, err)
	}
}

// TestWrongDeserializer reads as longs what is none.
func TestWrongDeserializer(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, fmt.Sprintf("producer wrong\nsend wrong %s 1 1 %s %s\nclose wrong", topic, word("k"), word("123")))
	said, err := python(t, "replay", serve(t), b.Plain, topic, filepath.Join(t.TempDir(), "out"), "long")
	if err == nil {
		t.Fatal("the pipeline has not failed")
	}
	for _, want := range []string{"ReadFromKafka", "kafka replay of partition 1 of topic", topic, "value of record 0: 3 bytes are no long, which has 8"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("the error doesn't say %q:\n%.6000s", want, said)
		}
	}
}

// TestCorrupt reads batches of which bits have flipped on the broker's disk.
func TestCorrupt(t *testing.T) {
	need(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir := t.TempDir()
	b, err := broker.Start(ctx, jars(t), dir, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Kill() })
	tool, err := b.Tool()
	if err != nil {
		t.Fatal(err)
	}
	do(t, tool, "topic broken 1\nproducer c\nbulk c broken 0 10 100 0\nflush c\nbulk c broken 0 10 100 10\nclose c")
	tool.Close()
	b.Stop() // else it would mend what is broken
	segment := filepath.Join(dir, "data", "broken-0", "00000000000000000000.log")
	text, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-50] ^= 4 // in the last batch
	if err := os.WriteFile(segment, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	fails(t, serve(t), kafka.Replay{Source: source(b, "broken")}, `partition 0 of topic "broken" at offset 10`, "checksum")
}
