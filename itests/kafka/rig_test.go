package kafka

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

var (
	chosen   = flag.Bool("kafka", false, "run the tests, with a broker from -cache")
	program  = flag.String("trestle", "../../bin/trestle", "the trestle program")
	quick    = flag.Bool("quick", false, "fewer replays and kills")
	cacheDir = flag.String("cache", "../../.cache", "where jars and the Python environment are kept")
)

// shared is the broker of most tests, started when it is first needed.
var shared struct {
	once   sync.Once
	broker *broker.Broker
	tool   *broker.Tool
	dir    string
	err    error
}

func TestMain(m *testing.M) {
	flag.Parse()
	beam.Init()
	code := m.Run()
	if shared.tool != nil {
		shared.tool.Close()
	}
	if shared.broker != nil {
		shared.broker.Stop()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// need skips the test unless it was chosen, and gives the broker.
func need(t testing.TB) (*broker.Broker, *broker.Tool) {
	t.Helper()
	if !*chosen {
		t.Skip("run with -kafka, or make itest-kafka")
	}
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if shared.dir, shared.err = os.MkdirTemp("", "itest-kafka-*"); shared.err != nil {
			return
		}
		if shared.broker, shared.err = broker.Start(ctx, jars(t), shared.dir, broker.Options{}); shared.err != nil {
			return
		}
		shared.tool, shared.err = shared.broker.Tool()
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.broker, shared.tool
}

func jars(t testing.TB) broker.Jars {
	dir, err := filepath.Abs(filepath.Join(*cacheDir, "kafka"))
	if err != nil {
		t.Fatal(err)
	}
	if !broker.Jars(dir).Ready() {
		t.Fatalf("no jars in %s: make kafka-jars", dir)
	}
	return broker.Jars(dir)
}

// do carries out commands of the Java clients, one a line.
func do(t testing.TB, tool *broker.Tool, script string) []string {
	t.Helper()
	var said []string
	for _, line := range strings.Split(script, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		lines, err := tool.Do(strings.Fields(line)...)
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, lines...)
	}
	return said
}

var topics int

// newTopic makes a topic that no other test has.
func newTopic(t testing.TB, tool *broker.Tool, partitions int, config ...string) string {
	t.Helper()
	topics++
	name := fmt.Sprintf("t%d", topics)
	do(t, tool, fmt.Sprintf("topic %s %d %s", name, partitions, strings.Join(config, " ")))
	return name
}

// word is a text as the Java clients' commands want it.
func word(s string) string { return broker.Word([]byte(s)) }

// source reads topics of a broker.
func source(b *broker.Broker, topics ...string) kafka.Source {
	return kafka.Source{
		Connection: kafka.Connection{Servers: []string{b.Plain}, Patience: 20 * time.Second},
		Topics:     topics,
	}
}

func resolve(t testing.TB, s kafka.Source) kafka.Bounds {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bounds, err := kafka.Resolve(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	return bounds
}

// line is a record as the Java consumer's lines have it.
func line(partition int32, r *kafka.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %d %s %s", partition, r.Offset, r.Time, broker.Word(r.Key), broker.Word(r.Value))
	for _, h := range r.Headers {
		fmt.Fprintf(&b, " %s=%s", h.Key, broker.Word(h.Value))
	}
	return b.String()
}

// readAll reads all ranges, each in order.
func readAll(t testing.TB, s kafka.Source, bounds kafka.Bounds) map[int32][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	all := map[int32][]string{}
	for _, r := range bounds.Ranges {
		err := kafka.ReadRange(ctx, s.Reading(), r, func(rec *kafka.Record) error {
			all[r.Partition] = append(all[r.Partition], line(r.Partition, rec))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// oracle is what the Java consumer reads with read_committed, by partition.
func oracle(t testing.TB, tool *broker.Tool, topic string, config ...string) map[int32][]string {
	t.Helper()
	all := map[int32][]string{}
	for _, l := range do(t, tool, "consume "+topic+" "+strings.Join(config, " ")) {
		p, err := strconv.Atoi(strings.Fields(l)[0])
		if err != nil {
			t.Fatal(err)
		}
		all[int32(p)] = append(all[int32(p)], l)
	}
	return all
}

func mustEqual(t testing.TB, got, want map[int32][]string) {
	t.Helper()
	for p := range want {
		if len(got[p]) != len(want[p]) {
			t.Errorf("partition %d: %d records, want %d", p, len(got[p]), len(want[p]))
		}
		for i := range min(len(got[p]), len(want[p])) {
			if got[p][i] != want[p][i] {
				t.Fatalf("partition %d, record %d:\n  got  %.200s\n  want %.200s", p, i, got[p][i], want[p][i])
			}
		}
	}
	for p := range got {
		if want[p] == nil {
			t.Errorf("partition %d: %d records, want none", p, len(got[p]))
		}
	}
}

// values are the values of lines, as texts.
func values(lines []string) []string {
	var all []string
	for _, l := range lines {
		v, _ := base64.StdEncoding.DecodeString(strings.Fields(l)[4])
		all = append(all, string(bytes.TrimSpace(v)))
	}
	return all
}
