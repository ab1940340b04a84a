package kafka

import (
	"maps"
	"testing"
	"time"
)

// TestLivePython has the stock wrapper of the Python SDK read without an end: the
// pipeline is a streaming one, commits its offsets, and drains.
func TestLivePython(t *testing.T) {
	b, tool := need(t)
	endpoint := serve(t)
	const partitions = 2
	topic, to, group := newTopic(t, tool, partitions), newTopic(t, tool, 1), "python"
	events := history(partitions, 1000, 8)
	w, heard := newWriter(t, b, topic), listen(t, b, to)
	w.write(events[:500]...)
	j, said := startLivePython(t, endpoint, "livepython", "live.py", endpoint, b.Plain, topic, to, group, "livepython")
	w.write(events[500:]...)
	j.await(time.Minute, "all is read and committed", func() bool {
		return maps.Equal(groupOffsets(t, b, group, topic), map[int32]int64{0: 1000, 1: 1000})
	})
	want := countEvents(events)
	j.await(time.Minute, "windows come while it runs", func() bool { return len(heard.heard()) >= len(want)/2 })
	j.drain()
	mustBe(t, heard.settled(t, len(want)), want)
	if text := <-said; len(text) > 0 {
		t.Logf("the program said, and ended with %v:\n%.2000s", <-j.ended, text)
	}
}

// startLivePython runs a script whose job has this name, until it ends or the
// test does.
func startLivePython(t testing.TB, endpoint, name, script string, args ...string) (j *liveJob, said <-chan []byte) {
	t.Helper()
	j = &liveJob{t: t, client: jobs(t, endpoint), ended: make(chan error, 1)}
	says := make(chan []byte, 1)
	go func() { // ends with the program
		text, err := pythonScript(t, script, args...)
		says <- text
		j.ended <- err
	}()
	await(t, 2*time.Minute, "the job runs", func() bool {
		select {
		case text := <-says:
			t.Fatalf("%v\n%s", <-j.ended, text)
		default:
		}
		j.id = runningJob(t, j.client, name)
		return j.id != ""
	})
	return j, says
}
