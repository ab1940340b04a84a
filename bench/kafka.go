package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"trestle/itests/kafka/broker"
)

// What a replay is compared with: the same topic read once by each way. The
// limits are no pipelines; see bench/kafka.
const (
	wayCount   = "count"
	wayWindows = "windows"
	wayFetch   = "fetch"
	wayFranz   = "franz"
	wayReader  = "reader"
)

// wayTitles are the ways in the order of the table.
var wayTitles = []struct{ way, title string }{
	{wayFetch, "a plain loop over kafka-go's fetch"},
	{wayFranz, "franz-go's loop"},
	{wayReader, "Trestle's reader, without a pipeline"},
	{wayCount, "a Go pipeline on Trestle that counts"},
	{wayWindows, "a Go pipeline on Trestle that counts by key and window"},
}

const (
	kafkaPartitions = 4
	kafkaValue      = 90 // bytes, and keys of kafkaKey
	kafkaKey        = 10
)

// kafkaCodecs are how the producer compresses; its batches are of 256 KiB.
var kafkaCodecs = []string{"none", "lz4"}

// replays measures all ways to read a topic.
func replays(ctx context.Context, w *workshop, o *options) ([]table, error) {
	jobs, err := kafkaJobs(ctx, w, o)
	if err != nil {
		return nil, err
	}
	results, err := w.measureAll(ctx, o, jobs)
	if err != nil {
		return nil, err
	}
	tables := []table{kafkaTable(results)}
	if aims := kafkaAims(results); len(aims.rows) > 0 {
		tables = append([]table{aims}, tables...)
	}
	return tables, errors.Join(judge(results)...)
}

// kafkaJobs replay a topic of a real broker, which is started here and ends with
// the workshop.
func kafkaJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if err := w.build(ctx, w.client("kafka"), "./bench/kafka"); err != nil {
		return nil, err
	}
	b, err := w.startKafka(ctx)
	if err != nil {
		return nil, err
	}
	each := max(1, o.kafka/kafkaPartitions)
	for _, codec := range kafkaCodecs {
		if err := fillTopic(b, "replay-"+codec, codec, each); err != nil {
			return nil, err
		}
		if err := fillTopic(b, "warm-"+codec, codec, min(each, warmRecords/kafkaPartitions)); err != nil {
			return nil, err
		}
	}
	var jobs []*job
	for _, codec := range kafkaCodecs {
		for _, way := range wayTitles {
			jobs = append(jobs, w.kafkaJob(b, codec, way.way, each))
		}
	}
	return jobs, nil
}

// kafkaJob reads the topic of a codec by one way.
func (w *workshop) kafkaJob(b *broker.Broker, codec, way string, each int64) *job {
	runner := aloneName
	if way == wayCount || way == wayWindows {
		runner = trestleName
	}
	return &job{
		name: "kafka", size: codec + " " + way, records: each * kafkaPartitions,
		loopback: true, runners: []string{runner}, beside: b.CPU,
		client: func(s *server, warmUp bool) (*exec.Cmd, error) {
			topic, n := "replay-"+codec, each
			if warmUp {
				topic, n = "warm-"+codec, min(each, warmRecords/kafkaPartitions)
			}
			args := []string{"-way=" + way, "-brokers=" + b.Plain, "-topic=" + topic, fmt.Sprintf("-records=%d", n*kafkaPartitions)}
			if s != nil {
				args = append(args, "-runner=universal", "-environment_type=LOOPBACK", "-endpoint="+s.endpoint)
			}
			return exec.Command(w.client("kafka"), args...), nil
		},
	}
}

// startKafka starts a broker.
func (w *workshop) startKafka(ctx context.Context) (*broker.Broker, error) {
	jars := broker.Jars(filepath.Join(w.cache, "kafka"))
	if !jars.Ready() {
		return nil, fmt.Errorf("no Kafka in %s (make kafka-jars makes it)", string(jars))
	}
	dir, err := os.MkdirTemp(w.scratch, "kafka-")
	if err != nil {
		return nil, err
	}
	w.atEnd = append(w.atEnd, func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	b, err := broker.Start(ctx, jars, dir, broker.Options{})
	if err != nil {
		return nil, err
	}
	w.atEnd = append(w.atEnd, b.Stop)
	return b, nil
}

// fillTopic writes as many records to each partition, by the Java producer.
func fillTopic(b *broker.Broker, topic, codec string, each int64) error {
	fmt.Fprintf(os.Stderr, "filling %s\n", topic)
	tool, err := b.Tool()
	if err != nil {
		return err
	}
	defer tool.Close()
	script := []string{
		fmt.Sprintf("topic %s %d", topic, kafkaPartitions),
		"producer p linger.ms=20 batch.size=262144 compression.type=" + codec,
	}
	for p := range kafkaPartitions {
		script = append(script, fmt.Sprintf("bulk p %s %d %d %d 0", topic, p, each, kafkaValue))
	}
	for _, line := range append(script, "close p") {
		if _, err := tool.Do(strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// rate is a job's records in a second, in millions.
func (r *result) rate() float64 {
	if len(r.runs) == 0 {
		return 0
	}
	return float64(r.job.records) / r.median().wall.Seconds() / 1e6
}

// kafkaResult is the result of a way with a codec, nil if there is none.
func kafkaResult(results []result, codec, way string) *result {
	for i := range results {
		if r := &results[i]; r.job.name == "kafka" && r.job.size == codec+" "+way && r.err == nil && len(r.runs) > 0 {
			return r
		}
	}
	return nil
}

func kafkaTable(results []result) table {
	t := table{
		title: "Kafka, replayed",
		text:  2,
		head: []string{"codec", "what reads", "million records/s", "MB/s", "× kafka-go", "× franz-go", "wall",
			"client or worker CPU of one", "runner CPU of one", "broker CPU of one"},
	}
	if len(results) > 0 {
		t.note = fmt.Sprintf("%s records of %d + %d bytes in %d partitions of one broker on the same machine, read once. "+
			"Times are of the whole client, from its start to its end; pipelines have a LOOPBACK worker, which is the client. "+
			"The first three are no pipelines: what a machine gives at most.", short(results[0].job.records, ""), kafkaKey, kafkaValue, kafkaPartitions)
	}
	for _, codec := range kafkaCodecs {
		plain, franz := kafkaResult(results, codec, wayFetch), kafkaResult(results, codec, wayFranz)
		for _, way := range wayTitles {
			r := kafkaResult(results, codec, way.way)
			if r == nil {
				row := make([]string, len(t.head))
				copy(row, []string{codec, way.title, "failed"})
				t.rows = append(t.rows, row)
				continue
			}
			m := r.median()
			one := func(d time.Duration) string {
				return fmt.Sprintf("%.2f µs", float64(d.Microseconds())/float64(r.job.records))
			}
			t.rows = append(t.rows, []string{codec, way.title, fmt.Sprintf("%.2f", r.rate()), fmt.Sprintf("%.0f", r.rate()*(kafkaKey+kafkaValue)),
				r.against(plain), r.against(franz), seconds(m.wall), one(m.worker), one(m.runner), one(m.beside)})
		}
	}
	return t
}

// against is how many times the rate of another this is.
func (r *result) against(other *result) string {
	if other == nil || other.rate() == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", r.rate()/other.rate())
}

// kafkaAims compares the counting pipeline with the plain loop.
func kafkaAims(results []result) table {
	t := aimsOf()
	for _, codec := range kafkaCodecs {
		own, plain := kafkaResult(results, codec, wayCount), kafkaResult(results, codec, wayFetch)
		if own == nil || plain == nil || plain.rate() == 0 {
			continue
		}
		v := own.rate() / plain.rate()
		t.aim(fmt.Sprintf("a replay that is only counted (%s): ≥ %.1f × the records of a plain loop over kafka-go's fetch", codec, aimReplay),
			fmt.Sprintf("%.2f ×", v), v >= aimReplay)
	}
	return t
}
