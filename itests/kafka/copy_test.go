package kafka

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// copies are replays of a topic to another one, which are at least once.
type copies struct {
	*killing
	made    int
	written int // records that came out, of all copies
	doubles int // of them, those that had come out before
	worst   int // of one copy
}

// begin starts a copy of the records that there were at first to a new topic.
func (c *copies) begin() (out, job string) {
	c.t.Helper()
	c.made++
	out = fmt.Sprintf("copy%d", c.made)
	do(c.t, c.tool, fmt.Sprintf("topic %s %d", out, len(c.want)))
	return out, c.replay(c.servers, c.topic, "--to="+out, "-c", "trestle.stop.offsets="+c.stops())
}

// check sees that all records are there, and no others, and counts those that
// are there twice.
func (c *copies) check(out, job string) {
	c.t.Helper()
	want := map[string]int{}
	for _, l := range flat(c.want) {
		want[fromTime(l)]++
	}
	got, all := map[string]int{}, 0
	for _, l := range flat(oracle(c.t, c.tool, out)) {
		got[fromTime(l)]++
		all++
	}
	lost := 0
	for l, n := range want {
		lost += max(0, n-got[l])
		delete(got, l)
	}
	if lost > 0 || len(got) > 0 {
		c.t.Errorf("copy %s: %d records are lost, and %d are none that were read", out, lost, len(got))
	}
	doubles := all - len(flat(c.want))
	c.t.Logf("%d of %d records are there twice", doubles, all)
	c.written, c.doubles, c.worst = c.written+all, c.doubles+doubles, max(c.worst, doubles)
	c.settledOnce(job)
}

// tell says what at least once came to.
func (c *copies) tell(t *testing.T) {
	t.Helper()
	t.Logf("%d copies of %d records each: nothing is lost, %d of %d records written are there twice, %d at most in one copy",
		c.made, len(flat(c.want)), c.doubles, c.written, c.worst)
	if c.written == 0 {
		t.Error("nothing was written")
	}
}

// fromTime is an oracle's line without partition and offset.
func fromTime(line string) string {
	f := strings.SplitN(line, " ", 3)
	return f[len(f)-1]
}

// TestCopy copies a topic with all that records can be, undisturbed: each record
// once, with every codec, with its nulls, headers and time, and where the Java producer would have
// put it, had it chosen the partition.
func TestCopy(t *testing.T) {
	topic := varied(t)
	b, tool := need(t)
	byJava := newTopic(t, tool, 4)
	job, web := serveBoth(t, t.TempDir())
	want := after(flat(oracle(t, tool, topic)), 2)
	var to string
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		to = newTopic(t, tool, 4)
		said, err := trestle(t, "kafka", "replay", topic, "--brokers="+b.Plain, "--job-addr="+job, "--web-addr="+web,
			"--to="+to, "--to-config=compression.type="+codec)
		if err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		mustBe(t, after(flat(oracle(t, tool, to)), 2), want)
	}

	// The same keys by the Java producer, which chooses partitions itself.
	do(t, tool, "producer java-"+to)
	for _, l := range want {
		f := strings.Fields(l)
		if f[1] != "-" {
			do(t, tool, fmt.Sprintf("send java-%s %s - %s %s %s", to, byJava, f[0], f[1], f[2]))
		}
	}
	do(t, tool, "close java-"+to)
	place := func(all map[int32][]string) []string {
		var out []string
		for p, lines := range all {
			for _, l := range lines {
				if key := strings.Fields(l)[3]; key != "-" {
					out = append(out, fmt.Sprint(key, " ", p))
				}
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	mustBe(t, place(oracle(t, tool, to)), place(oracle(t, tool, byJava)))
	if said, err := trestle(t, "kafka", "replay", topic, "--to=x", "--out="+filepath.Join(t.TempDir(), "out")); err == nil {
		t.Errorf("--to and --out together were taken:\n%s", said)
	}
}
