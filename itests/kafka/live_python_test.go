package kafka

import (
	"maps"
	"os/exec"
	"path/filepath"
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
	program, err := filepath.Abs(filepath.Join(*cacheDir, "venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "python/live.py", endpoint, b.Plain, topic, to, group, "livepython")
	j := &liveJob{t: t, client: jobs(t, endpoint), ended: make(chan error, 1)}
	said := make(chan []byte, 1)
	go func() { // ends with the program, at the latest when the test does
		text, err := cmd.CombinedOutput()
		said <- text
		j.ended <- err
	}()
	await(t, 2*time.Minute, "the job runs", func() bool {
		select {
		case text := <-said:
			t.Fatalf("%v\n%s", <-j.ended, text)
		default:
		}
		j.id = runningJob(t, j.client, "livepython")
		return j.id != ""
	})
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
