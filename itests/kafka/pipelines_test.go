package kafka

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/xlang/kafkaio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

func init() {
	beam.RegisterType(reflect.TypeFor[lineFn]())
	beam.RegisterType(reflect.TypeFor[fileFn]())
	register.Function2x1(pairText)
	register.Emitter2[int, string]()
	register.Iter1[string]()
}

// lineFn gives a message as the Java consumer's lines have it.
type lineFn struct{}

func (*lineFn) ProcessElement(at beam.EventTime, m kafka.Message, emit func(int, string)) {
	m.Timestamp = at.Milliseconds()
	emit(0, messageLine(m))
}

// messageLine is a message as the Java consumer's lines have it.
func messageLine(m kafka.Message) string {
	r := kafka.Record{Offset: m.Offset, Time: m.Timestamp}
	bytes := func(b *[]byte) []byte {
		switch {
		case b == nil:
			return nil
		case *b == nil:
			return []byte{}
		}
		return *b
	}
	r.Key, r.Value = bytes(m.Key), bytes(m.Value)
	if m.Headers != nil {
		for _, h := range *m.Headers {
			r.Headers = append(r.Headers, kafka.Header{Key: h.Key, Value: bytes(h.Value)})
		}
	}
	return line(m.Partition, &r)
}

// fileFn writes all lines to a file, which is there whole or not at all.
type fileFn struct{ File string }

func (f *fileFn) ProcessElement(_ int, lines func(*string) bool) (int, error) {
	var all []string
	for l := ""; lines(&l); {
		all = append(all, l)
	}
	temp := f.File + ".new"
	if err := os.WriteFile(temp, []byte(strings.Join(all, "\n")+"\n"), 0o600); err != nil {
		return 0, err
	}
	return len(all), os.Rename(temp, f.File)
}

func pairText(k, v []byte) string { return string(k) + " " + string(v) }

// run runs a pipeline of this process' functions.
func run(t testing.TB, job string, p *beam.Pipeline) {
	t.Helper()
	for name, value := range map[string]string{"endpoint": job, "environment_type": "LOOPBACK"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := universal.Execute(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}

// varied makes a topic with what a history can have: transactions that were
// aborted, markers at the end, null keys and values, headers, empty partitions.
func varied(t *testing.T) (topic string) {
	b, tool := need(t)
	_ = b
	topic = newTopic(t, tool, 4)
	do(t, tool, strings.ReplaceAll(`
		producer plain-TOPIC linger.ms=10 compression.type=lz4
		producer tx-TOPIC transactional.id=TOPIC compression.type=gzip
		bulk plain-TOPIC TOPIC 0 2000 50 0
		flush plain-TOPIC
		begin tx-TOPIC
		bulk tx-TOPIC TOPIC 0 500 50 10000
		bulk tx-TOPIC TOPIC 1 500 50 10000
		abort tx-TOPIC
		bulk plain-TOPIC TOPIC 0 500 50 2000
		flush plain-TOPIC
		begin tx-TOPIC
		bulk tx-TOPIC TOPIC 0 300 50 20000
		bulk tx-TOPIC TOPIC 1 300 50 20000
		commit tx-TOPIC
		send plain-TOPIC TOPIC 1 1000 - djE= h=MQ== h=Mg== n=-
		send plain-TOPIC TOPIC 1 1000 azI= -
		send plain-TOPIC TOPIC 1 1000 ~ ~
		flush plain-TOPIC
		begin tx-TOPIC
		bulk tx-TOPIC TOPIC 3 10 50 0
		abort tx-TOPIC
		close tx-TOPIC
		close plain-TOPIC`, "TOPIC", topic))
	return topic
}

// flat are all lines, sorted.
func flat(m map[int32][]string) []string {
	var all []string
	for _, lines := range m {
		all = append(all, lines...)
	}
	slices.Sort(all)
	return all
}

func sortedLines(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	slices.Sort(all)
	return all
}

func mustBe(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %d:\n  got  %.200s\n  want %.200s", i, got[i], want[i])
		}
	}
}

// TestGoPipeline replays in a Go pipeline's own worker.
func TestGoPipeline(t *testing.T) {
	topic := varied(t)
	b, tool := need(t)
	job := serve(t)
	want := flat(oracle(t, tool, topic))
	for range 2 {
		file := filepath.Join(t.TempDir(), "lines")
		p, s := beam.NewPipelineWithRoot()
		messages := kafka.Replay{Source: source(b, topic)}.Messages(s)
		beam.ParDo(s, &fileFn{file}, beam.GroupByKey(s, beam.ParDo(s, &lineFn{}, messages)))
		run(t, job, p)
		mustBe(t, sortedLines(t, file), want)
	}
}

// TestGoWrapper reads by the Go SDK's own wrapper, which asks the expansion
// service, and writes by it.
func TestGoWrapper(t *testing.T) {
	b, tool := need(t)
	from, to := newTopic(t, tool, 2), newTopic(t, tool, 3)
	do(t, tool, fmt.Sprintf("producer w-%[1]s\nbulk w-%[1]s %[1]s 0 300 20 0\nbulk w-%[1]s %[1]s 1 300 20 300\nclose w-%[1]s", from))
	job := serve(t)
	p, s := beam.NewPipelineWithRoot()
	in := kafkaio.Read(s, job, b.Plain, []string{from}, kafkaio.ConsumerConfigs(map[string]string{"trestle.stop": "now"}))
	file := filepath.Join(t.TempDir(), "lines")
	beam.ParDo(s, &fileFn{file}, beam.GroupByKey(s, beam.AddFixedKey(s, beam.ParDo(s, pairText, in))))
	kafkaio.Write(s, job, b.Plain, to, in)
	run(t, job, p)
	keysAndValues := func(topic string) []string {
		var all []string
		for _, l := range flat(oracle(t, tool, topic)) {
			f := strings.Fields(l)
			all = append(all, f[3]+" "+f[4])
		}
		slices.Sort(all)
		return all
	}
	want := keysAndValues(from)
	mustBe(t, keysAndValues(to), want)
	if n := len(sortedLines(t, file)); n != len(want) {
		t.Errorf("%d lines, want %d", n, len(want))
	}
}

// TestPython runs the stock wrappers of the Python SDK.
func TestPython(t *testing.T) {
	topic := varied(t)
	b, tool := need(t)
	job := serve(t)
	lines := flat(oracle(t, tool, topic))
	replay := func(t *testing.T, topic, kind string) []string {
		out := filepath.Join(t.TempDir(), "out")
		if said, err := python(t, "replay", job, b.Plain, topic, out, kind); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		return sortedLines(t, out+"*")
	}
	t.Run("metadata", func(t *testing.T) { mustBe(t, replay(t, topic, "metadata"), lines) })
	t.Run("plain", func(t *testing.T) {
		var want []string
		for _, l := range lines {
			want = append(want, strings.Join(strings.Fields(l)[2:5], " "))
		}
		slices.Sort(want)
		mustBe(t, replay(t, topic, "plain"), want)
	})
	t.Run("long", func(t *testing.T) {
		longs := newTopic(t, tool, 1)
		do(t, tool, "producer longs\nsend longs "+longs+" 0 1 "+word("a")+" "+word("\x00\x00\x00\x00\x00\x00\x01\x00")+
			"\nsend longs "+longs+" 0 1 "+word("b")+" "+word("\xff\xff\xff\xff\xff\xff\xff\xfe")+"\nclose longs")
		mustBe(t, replay(t, longs, "long"), []string{"a 256", "b -2"})
	})
	t.Run("write", func(t *testing.T) {
		to := newTopic(t, tool, 3)
		if said, err := python(t, "write", job, b.Plain, to, "1000"); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		all := flat(oracle(t, tool, to))
		slices.SortFunc(all, func(a, b string) int { return cmp.Compare(strings.Fields(a)[3], strings.Fields(b)[3]) })
		if len(slices.CompactFunc(slices.Clone(all), func(a, b string) bool { return strings.Fields(a)[3] == strings.Fields(b)[3] })) != 1000 || len(all) != 1000 {
			t.Errorf("%d records, want 1000 different ones", len(all))
		}
	})
	t.Run("rows", func(t *testing.T) {
		texts := newTopic(t, tool, 1)
		do(t, tool, "producer texts\nsend texts "+texts+" 0 1 - "+word("a")+"\nsend texts "+texts+" 0 1 - "+word("b")+"\nclose texts")
		for format, want := range map[string][]string{"RAW": {"b'a'", "b'b'"}, "STRING": {"'a'", "'b'"}} {
			out := filepath.Join(t.TempDir(), "out")
			if said, err := python(t, "rows", job, b.Plain, texts, out, format); err != nil {
				t.Fatalf("%s: %v\n%s", format, err, said)
			}
			mustBe(t, sortedLines(t, out+"*"), want)
		}
	})
	t.Run("unknown topic", func(t *testing.T) {
		said, err := python(t, "replay", job, b.Plain, "nothing-here", filepath.Join(t.TempDir(), "out"), "plain")
		if want := `topic "nothing-here": the brokers at ` + b.Plain + ` don't know it`; err == nil || !strings.Contains(string(said), want) {
			t.Errorf("%v, and not %q:\n%.4000s", err, want, said)
		}
	})
}

// TestSecured reads over TLS with each of the ways to log in, by the keys of a
// consumer config.
func TestSecured(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1)
	do(t, tool, "producer sec\nbulk sec "+topic+" 0 100 20 0\nclose sec")
	want := oracle(t, tool, topic)
	jaas := func(module, password string) string {
		return fmt.Sprintf(`org.apache.kafka.common.security.%s required username="%s" password="%s";`, module, "reader", strings.ReplaceAll(password, `"`, `\"`))
	}
	config := func(mechanism, password string) map[string]string {
		module := "scram.ScramLoginModule"
		if mechanism == "PLAIN" {
			module = "plain.PlainLoginModule"
		}
		return map[string]string{
			"bootstrap.servers": b.Secured, "security.protocol": "SASL_SSL", "sasl.mechanism": mechanism,
			"sasl.jaas.config": jaas(module, password), "ssl.truststore.type": "PEM",
			"ssl.truststore.certificates": b.Authority, "default.api.timeout.ms": "20000",
		}
	}
	const password = "reader's secret; \"quoted\""
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			s, err := kafka.ParseConsumer(config(mechanism, password))
			if err != nil {
				t.Fatal(err)
			}
			s.Topics = []string{topic}
			mustEqual(t, readAll(t, s, resolve(t, s)), want)

			if s, err = kafka.ParseConsumer(config(mechanism, "wrong")); err != nil {
				t.Fatal(err)
			}
			s.Topics = []string{topic}
			if _, err := kafka.Resolve(t.Context(), s); err == nil || !strings.Contains(err.Error(), "refuse the credentials") {
				t.Errorf("with a wrong password: %v", err)
			}
		})
	}
	t.Run("untrusted", func(t *testing.T) {
		c := config("PLAIN", password)
		delete(c, "ssl.truststore.certificates")
		s, err := kafka.ParseConsumer(c)
		if err != nil {
			t.Fatal(err)
		}
		s.Topics = []string{topic}
		if _, err := kafka.Resolve(t.Context(), s); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("with a certificate of nobody known: %v", err)
		}
	})
}
