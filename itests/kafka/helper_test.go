package kafka

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

// TestHelpers replays between places by the small helpers of Go and Python. What
// comes out is cut from what the Java consumer reads.
func TestHelpers(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, "producer h")
	for i := range 40 {
		do(t, tool, fmt.Sprintf("send h %s %d %d %s %s", topic, i%2, 1000*(i+1), word(fmt.Sprint("k", i)), word("v")))
	}
	do(t, tool, "close h")
	lines := flat(oracle(t, tool, topic))
	if len(lines) != 40 {
		t.Fatalf("the oracle has %d lines, want 40", len(lines))
	}
	at := func(ms int64) kafka.Bound { return kafka.At(time.UnixMilli(ms)) }
	for _, test := range []struct {
		name          string
		start, stop   kafka.Bound
		pStart, pStop string // the same in Python
		reads         func(partition, offset, ms int64) bool
	}{
		{"all", kafka.Earliest(), kafka.Now(), "None", "'now'", func(_, _, _ int64) bool { return true }},
		{"times", at(7000), at(21001), "datetime.datetime.fromtimestamp(7, datetime.timezone.utc)", "21001",
			func(_, _, ms int64) bool { return ms >= 7000 && ms <= 21000 }},
		{"time and now", at(30500), kafka.Now(), "'1970-01-01T00:00:30.500Z'", "'now'", func(_, _, ms int64) bool { return ms > 30500 }},
		{"offsets", kafka.AtOffsets(map[int32]int64{1: 5}), kafka.AtOffsets(map[int32]int64{0: 3, 1: 9}), "{1: 5}", "{0: 3, ('" + topic + "', 1): 9}",
			func(p, o, _ int64) bool { return p == 0 && o < 3 || p == 1 && o >= 5 && o < 9 }},
	} {
		var want []string
		for _, l := range lines {
			var p, o, ms int64
			if _, err := fmt.Sscan(l, &p, &o, &ms); err != nil {
				t.Fatal(err)
			}
			if test.reads(p, o, ms) {
				want = append(want, l)
			}
		}
		t.Run(test.name+" in Go", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lines")
			p, s := beam.NewPipelineWithRoot()
			messages := kafka.ReplayTopic(b.Plain, topic, test.start, test.stop).Messages(s)
			beam.ParDo(s, &fileFn{file}, beam.GroupByKey(s, beam.ParDo(s, &lineFn{}, messages)))
			run(t, job, p)
			mustBe(t, sortedLines(t, file), want)
		})
		t.Run(test.name+" in Python", func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			if said, err := pythonScript(t, "helper.py", job, b.Plain, topic, test.pStart, test.pStop, out); err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			mustBe(t, sortedLines(t, out+"*"), want)
		})
	}
	t.Run("wrong in Python", func(t *testing.T) {
		for place, want := range map[string]string{
			"3.5": "start=3.5: want a datetime", "{}": "start has no partition", "datetime.datetime(2026, 1, 1)": "has no time zone",
		} {
			said, err := pythonScript(t, "helper.py", job, b.Plain, topic, place, "'now'", filepath.Join(t.TempDir(), "out"))
			if err == nil || !strings.Contains(string(said), want) {
				t.Errorf("%s: %v, and not %q:\n%s", place, err, want, said)
			}
		}
	})
}
