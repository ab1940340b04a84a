package kafka

import (
	"testing"
	"time"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

// TestLiveIdle has one partition of three written, and none after a while. The
// others don't hold the windows of that one, and in the end it doesn't either:
// all windows come though the job goes on. If idle partitions are to hold the
// watermark, they do.
func TestLiveIdle(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	for name, test := range map[string]struct {
		config []string
		policy kafka.Policy
		comes  bool
	}{
		"CreateTime":       {policy: kafka.Policy{Stamp: kafka.ByCreate, IdleAfter: time.Second}, comes: true},
		"CreateTime, held": {policy: kafka.Policy{Stamp: kafka.ByCreate, IdleAfter: -1}},
		"LogAppendTime":    {config: []string{"message.timestamp.type=LogAppendTime"}, policy: kafka.Policy{Stamp: kafka.ByLog}, comes: true},
		"ProcessingTime":   {policy: kafka.Policy{Stamp: kafka.ByProcessing}, comes: true},
	} {
		t.Run(name, func(t *testing.T) {
			topic, to, group := newTopic(t, tool, 3, test.config...), newTopic(t, tool, 1), "idle-"+name
			var events []event
			for _, e := range history(1, 500, 5) {
				e.key = "k"
				events = append(events, e)
			}
			newWriter(t, b, topic).write(events...)
			heard := listen(t, b, to)
			l := live(b, topic)
			l.Policy, l.Commit, l.Source.Group = test.policy, true, group
			p, s := beam.NewPipelineWithRoot()
			countWindows(s, l.Pairs(s), sink(b, to))
			running := startLive(t, job, p)
			want := countEvents(events)
			switch {
			case test.comes && test.policy.Stamp == kafka.ByCreate:
				running.await(time.Minute, "all windows come", func() bool { return len(heard.heard()) >= len(want) })
				mustBe(t, heard.heard(), want)
				running.drain()
				mustBe(t, heard.settled(t, len(want)), want)
			case test.comes:
				// All are of the time of now, and in one window or two.
				running.await(time.Minute, "the window comes", func() bool { return len(heard.heard()) >= 1 })
			default:
				running.await(time.Minute, "all is read", func() bool { return groupOffsets(t, b, group, topic)[0] == int64(len(events)) })
				quiet := time.NewTimer(2 * time.Second)
				<-quiet.C
				if n := len(heard.heard()); n > 0 {
					t.Errorf("%d windows come, and two partitions are said to hold them", n)
				}
				running.drain()
				mustBe(t, heard.settled(t, len(want)), want)
			}
		})
	}
}
