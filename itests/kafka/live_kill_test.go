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

// TestLiveKilled reads by the Go SDK's own wrapper in a worker of a TaskManager,
// which is killed: the bundle that it had runs again in another one, and each
// record counts once. When the TaskManager is killed, what the job knew is gone
// with it until there are checkpoints: the job fails, and says so.
func TestLiveKilled(t *testing.T) {
	b, tool := need(t)
	g := startGroup(t, 1, 1)
	endpoint := g.leader().job
	const partitions = 2
	topic, to := newTopic(t, tool, partitions), newTopic(t, tool, 1)
	w, heard := newWriter(t, b, topic), listen(t, b, to)
	events := history(partitions, 3000, 10)
	begin := func(group string) *liveJob {
		p, s := beam.NewPipelineWithRoot()
		in := kafkaio.Read(s, endpoint, b.Plain, []string{topic}, kafkaio.CommitOffsetInFinalize(true), kafkaio.TimestampPolicy(kafkaio.CreateTime),
			kafkaio.ConsumerConfigs(map[string]string{"group.id": group, "auto.offset.reset": "earliest", "trestle.idle.after.ms": "never"}))
		countWindows(s, in, sink(b, to))
		return startLiveIn(t, endpoint, "DOCKER", p)
	}
	running := begin("killed")
	read := func(n int) {
		running.await(time.Minute, "what there is has been read", func() bool {
			return least(groupOffsets(t, b, "killed", topic), partitions) == int64(n/partitions)
		})
	}
	w.write(events[:2000]...)
	read(2000)
	killed := 0
	for _, pid := range append(g.harnesses(), descendants(g.workers[0].cmd.Process.Pid, "--worker=true")...) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("no worker was there to be killed")
	}
	w.write(events[2000:]...)
	read(len(events))
	want := countEvents(events)
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

// least is the smallest of what was committed of n partitions; -1 if there is
// none of one of them.
func least(offsets map[int32]int64, n int) int64 {
	if len(offsets) < n {
		return -1
	}
	return slices.Min(slices.Collect(maps.Values(offsets)))
}
