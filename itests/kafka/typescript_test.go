package kafka

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// typescript runs one of the TypeScript SDK's pipelines, in whose process the
// worker is, and returns the lines that it has printed.
func typescript(t *testing.T, way, job string, args ...string) []string {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(*cacheDir, "typescript", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "apache-beam")); err != nil {
		t.Fatalf("%v: make typescript", err)
	}
	script, err := filepath.Abs(filepath.Join("..", "typescript", "kafka.js"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // its client may wait for ever
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{script, way, job}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules, `BEAM_SERVICE_OVERRIDES={"sdks:java:io:expansion-service:shadowJar": "`+job+`"}`)
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.8000s", way, err, said)
	}
	var all []string
	for l := range strings.Lines(string(said)) {
		if l, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "line "); ok {
			all = append(all, l)
		}
	}
	slices.Sort(all)
	return all
}

// TestTypeScript runs the wrappers of the TypeScript SDK, unchanged: only where
// the expansion service is has been said, in the way that the SDK has for it. The
// records are of 1970: the SDK reads integers of more than five bytes wrongly,
// and so can't read rows with the times of other years, whoever wrote them.
func TestTypeScript(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, "producer ts")
	var pairs, rows []string
	for i := range 100 {
		do(t, tool, fmt.Sprintf("send ts %s %d %d %s %s", topic, i%2, 1000+i, word(fmt.Sprint("k", i)), word(fmt.Sprint("v", i))))
		pairs = append(pairs, fmt.Sprintf("k%d v%d", i, i))
		rows = append(rows, fmt.Sprintf("%d %d %d k%d v%d", i%2, i/2, 1000+i, i, i))
	}
	do(t, tool, "close ts")
	slices.Sort(pairs)
	slices.Sort(rows)
	t.Run("replay", func(t *testing.T) { mustBe(t, typescript(t, "replay", job, b.Plain, topic), pairs) })
	t.Run("metadata", func(t *testing.T) { mustBe(t, typescript(t, "metadata", job, b.Plain, topic), rows) })
	t.Run("write", func(t *testing.T) {
		to := newTopic(t, tool, 2)
		typescript(t, "write", job, b.Plain, to, "100")
		var want []string
		for i := range 100 {
			want = append(want, word(fmt.Sprint("k", i))+" "+word(fmt.Sprint("v", i)))
		}
		slices.Sort(want)
		mustBe(t, after(flat(oracle(t, tool, to)), 3), want)
	})
}
