package kafka

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/xlang/kafkaio"
)

// TestLiveKilled reads by the Go SDK's own wrapper in workers of a TaskManager,
// which are killed while records flow: the bundles that they had run again in
// others, and each record counts once. When the TaskManager is killed, what the
// job knew is gone with it until there are checkpoints: the job fails, and says so.
func TestLiveKilled(t *testing.T) {
	b, tool := need(t)
	g := startGroup(t, 1, 1)
	endpoint := g.leader().job
	const partitions, kills = 2, 3
	topic, to := newTopic(t, tool, partitions), newTopic(t, tool, 1)
	heard := listen(t, b, to)
	begin := func(group string) *liveJob {
		p, s := beam.NewPipelineWithRoot()
		in := kafkaio.Read(s, endpoint, b.Plain, []string{topic}, kafkaio.CommitOffsetInFinalize(true), kafkaio.TimestampPolicy(kafkaio.CreateTime),
			kafkaio.ConsumerConfigs(map[string]string{
				"group.id": group, "auto.offset.reset": "earliest", "trestle.idle.after.ms": "never", "max.partition.fetch.bytes": "65536",
			}))
		countWindows(s, in, sink(b, to))
		return startLiveIn(t, endpoint, "DOCKER", p)
	}
	flow := &flowing{writer: newWriter(t, b, topic), events: history(partitions, 1_000_000, 20), partitions: partitions}
	flow.ahead(0)
	running := begin("killed")
	read := func() int64 { return least(groupOffsets(t, b, "killed", topic), partitions) }
	was := int64(0)
	for range kills {
		running.await(time.Minute, "it reads on", func() bool {
			at := read()
			amid := at > was && at < flow.each()
			flow.ahead(at)
			return amid
		})
		killed := 0
		for _, pid := range append(g.harnesses(), descendants(g.workers[0].cmd.Process.Pid, "--worker=true")...) {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		if killed == 0 {
			t.Fatal("no worker was there to be killed")
		}
		before := was
		if was = read(); was >= flow.each() {
			t.Fatalf("all %d records of a partition had been read before the kill", was)
		}
		t.Logf("%d workers killed when %d of %d records of a partition had been read, %d since the last kill", killed, was, flow.each(), was-before)
	}
	running.await(2*time.Minute, "all has been read", func() bool { return read() == flow.each() })
	want := countEvents(flow.events[:flow.written])
	running.drain()
	mustBe(t, heard.settled(t, len(want)), want)

	running = begin("killed, too")
	running.await(time.Minute, "it reads", func() bool { return least(groupOffsets(t, b, "killed, too", topic), partitions) > 0 })
	g.workers[0].kill()
	err := running.failure(2 * time.Minute)
	for _, word := range []string{`TaskManager "tm1": the TaskManager is gone`, "no checkpoints yet"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %s", word)
		}
	}
}

// A flowing topic is written as it is read, a good way ahead: whoever reads it has
// always more to read.
type flowing struct {
	*writer
	events     []event // a partition's in turn
	written    int     // of them
	partitions int
}

// leadRecords is how far ahead of its reader a partition is written.
const leadRecords = 150_000

// ahead writes if the partitions have been read up to an offset.
func (f *flowing) ahead(read int64) {
	f.t.Helper()
	to := min((int(read)+leadRecords)*f.partitions, len(f.events))
	if to > f.written {
		f.write(f.events[f.written:to]...)
		f.written = to
	}
}

// each is how many records a partition has.
func (f *flowing) each() int64 { return int64(f.written / f.partitions) }

// least is the smallest of what was committed of n partitions; -1 if there is
// none of one of them.
func least(offsets map[int32]int64, n int) int64 {
	if len(offsets) < n {
		return -1
	}
	return slices.Min(slices.Collect(maps.Values(offsets)))
}
