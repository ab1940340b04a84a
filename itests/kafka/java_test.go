package kafka

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// javaReplay runs the pipeline with the Java SDK's own KafkaIO, in its own
// worker, which is the client's process.
func javaReplay(t *testing.T, job, servers, topic string, more ...string) ([]byte, error) {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(*cacheDir, "kafkaio"))
	if err != nil {
		t.Fatal(err)
	}
	staged := filepath.Join(t.TempDir(), "staged") // not the class path: the worker has it
	if err := os.WriteFile(staged, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agents, err := filepath.Glob(filepath.Join(dir, "lib", "jamm-*.jar"))
	if err != nil || len(agents) != 1 {
		t.Fatalf("no jars in %s: make kafka-jars (%v)", dir, err)
	}
	cmd := exec.CommandContext(t.Context(), "java", append([]string{
		"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-javaagent:" + agents[0],
		"-cp", filepath.Join(dir, "kafkaio.jar") + string(os.PathListSeparator) + filepath.Join(dir, "lib", "*"),
		"trestle.kafkaio.Replay", "--runner=PortableRunner", "--jobEndpoint=" + job, "--defaultEnvironmentType=LOOPBACK",
		"--filesToStage=" + staged, "--servers=" + servers, "--topic=" + topic}, more...)...)
	cmd.Dir = t.TempDir()
	return cmd.CombinedOutput()
}

// TestJavaOwnIO runs Java pipelines with their own KafkaIO, which asks Trestle for
// nothing: bounded by their options they end, and have read what the options say.
func TestJavaOwnIO(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	const partitions, each = 2, 200
	topic := newTopic(t, tool, partitions)
	do(t, tool, "producer jio")
	for i := range each {
		for p := range partitions {
			do(t, tool, fmt.Sprintf("send jio %s %d %d %s %s", topic, p, 1000*(i+1), word(fmt.Sprintf("k%d-%d", p, i)), word(strings.Repeat("v", i%10))))
		}
	}
	do(t, tool, "close jio")
	lines := func(t *testing.T, more ...string) []string {
		out := filepath.Join(t.TempDir(), "out")
		if said, err := javaReplay(t, job, b.Plain, topic, append(more, "--output="+out)...); err != nil {
			t.Fatalf("%v\n%.8000s", err, said)
		}
		return sortedLines(t, out+"*")
	}
	want := func(p, i int) string { return fmt.Sprintf("%d %d %d k%d-%d %d", p, i, 1000*(i+1), p, i, i%10) }

	t.Run("withMaxNumRecords", func(t *testing.T) {
		got := lines(t, "--maxNumRecords=300")
		if len(got) != 300 || len(slices.Compact(slices.Clone(got))) != 300 {
			t.Errorf("%d lines, want 300 different ones", len(got))
		}
		all := map[string]bool{}
		for p := range partitions {
			for i := range each {
				all[want(p, i)] = true
			}
		}
		for _, l := range got {
			if !all[l] {
				t.Errorf("%q is no record", l)
			}
		}
	})
	t.Run("withStopReadTime", func(t *testing.T) {
		var all []string
		for p := range partitions {
			for i := range 150 {
				all = append(all, want(p, i))
			}
		}
		slices.Sort(all)
		mustBe(t, lines(t, "--stopReadTime=151000"), all)
	})
	t.Run("write", func(t *testing.T) {
		to := newTopic(t, tool, 3)
		if said, err := javaReplay(t, job, b.Plain, topic, "--stopReadTime=100000", "--to="+to); err != nil {
			t.Fatalf("%v\n%.8000s", err, said)
		}
		var keys []string
		for p := range partitions {
			for i := range 99 {
				keys = append(keys, word(fmt.Sprintf("k%d-%d", p, i)))
			}
		}
		slices.Sort(keys)
		var got []string
		for _, l := range flat(oracle(t, tool, to)) {
			got = append(got, strings.Fields(l)[3])
		}
		slices.Sort(got)
		mustBe(t, slices.Compact(got), keys)
	})
}
