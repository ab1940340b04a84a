package itests

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// TestWorkerCrash has a worker kill itself in mid-bundle. Its bundles are tried
// again on its successor, and each element comes out once.
func TestWorkerCrash(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--workers-per-environment=1")
	t.Run("go", func(t *testing.T) {
		// Several times, because it matters when the other task's bundle, on the
		// same worker, was last heard of.
		for range 5 {
			dir := t.TempDir()
			pids := filepath.Join(dir, "pids")
			p := goPipeline(t, goBoot(t, pids), func(s beam.Scope) {
				gatherNumbers(s, beam.ParDo(s, &crashFn{Dir: dir, At: 70, Times: 1}, numbers(s, 100)), filepath.Join(dir, "out"))
			})
			submit(t, s, "crash-go", p).mustEnd()
			mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 100)
			if n := len(lines(pids)); n != 2 {
				t.Errorf("%d workers were started, want one and its successor", n)
			}
		}
	})
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		p := pythonPipeline(t, "crash", dir)
		startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
		submit(t, s, "crash-python", p).mustEnd()
		mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 100)
		if n := len(lines(filepath.Join(dir, "pids"))); n != 2 {
			t.Errorf("%d workers were started, want one and its successor", n)
		}
	})
}

// TestWorkerAlwaysCrashes has every worker die at the same element. The job
// fails within bounds, with what the last one said; another job at the same
// time doesn't mind.
func TestWorkerAlwaysCrashes(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	other := waitingJob(t, s, dir)
	p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
		gatherNumbers(s, beam.ParDo(s, &crashFn{Dir: dir, At: 7, Times: 1000}, numbers(s, 10)), filepath.Join(dir, "out"))
	})
	submit(t, s, "crashes", p, "restart_strategy=none").mustFail("last words of a worker at element 7", "killed")
	if n := count(t, filepath.Join(dir, "crash-*")); n < 2 || n > 10 {
		t.Errorf("the element was tried %d times, want a few", n)
	}
	if exists(filepath.Join(dir, "out")) {
		t.Error("a job that failed wrote output")
	}
	other.release()
}

// TestWorkerNeverStarts fails with what the command said.
func TestWorkerNeverStarts(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	for name, boot := range map[string]struct{ command, want string }{
		"exits":   {script(t, "echo no licence for this worker >&2", "exit 3"), "no licence for this worker"},
		"missing": {"/nowhere/worker", "/nowhere/worker"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := smallJob(t, boot.command, filepath.Join(dir, "out"))
			ctx, cancel := context.WithTimeout(t.Context(), jobLimit)
			defer cancel()
			_, err := jobpb.NewJobServiceClient(dial(t, s.Job)).Prepare(ctx, &jobpb.PrepareJobRequest{JobName: name, Pipeline: p})
			if err != nil { // it may be known already
				if !strings.Contains(err.Error(), boot.want) {
					t.Errorf("refused without the words %q: %v", boot.want, err)
				}
				return
			}
			submit(t, s, name, p).mustFail(boot.want)
		})
	}
	mustStillWork(t, s)
}

// A waiting is a job that runs until it is released, and must then end right.
type waiting struct {
	*job
	dir string
}

// waitingJob starts one and returns when it is in the middle of a bundle.
func waitingJob(t *testing.T, s server, dir string, options ...string) *waiting {
	t.Helper()
	w := &waiting{dir: filepath.Join(dir, "waiting")}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.job = submit(t, s, "waits", waitingPipeline(t, w.dir), options...)
	eventually(t, jobLimit, "the waiting job runs", func() bool { return exists(filepath.Join(w.dir, "reached")) })
	return w
}

func (w *waiting) release() {
	w.t.Helper()
	first(filepath.Join(w.dir, "go"))
	w.mustEnd()
	mustHaveNumbers(w.t, filepath.Join(w.dir, "out"), 0, 100)
}

// TestUserError fails a job with the transform's name and the user's own words,
// as often tried as the restart strategy says, and no other job with it.
func TestUserError(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	other := waitingJob(t, s, t.TempDir())
	// A bundle is tried twice before its task fails.
	tests := []struct {
		name    string
		options []string
		tries   int
	}{
		{"none", []string{"restart_strategy=none"}, 2},
		{"fixed-delay", []string{"restart_strategy=fixed-delay", "restart_attempts=1", "restart_delay=10ms"}, 4},
		{"exponential", []string{"restart_strategy=exponential", "restart_attempts=2", "restart_delay=10ms"}, 6},
		{"failure-rate", []string{"restart_strategy=failure-rate", "restart_attempts=3", "restart_delay=10ms", "restart_interval=1h"}, 8},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
				gatherNumbers(s, beam.ParDo(s.Scope("Strict"), &failFn{Dir: dir, At: 3}, numbers(s, 10)), filepath.Join(dir, "out"))
			})
			j := submit(t, s, "fails", p, test.options...)
			j.mustFail("Strict/itests.failFn", "the number 3 is one too many")
			if n := count(t, filepath.Join(dir, "try-*")); n != test.tries {
				t.Errorf("the element was tried %d times, want %d", n, test.tries)
			}
			if got := j.shown(); got.State != "FAILED" || !strings.Contains(got.Error, "one too many") || got.Restarts != test.tries/2-1 {
				t.Errorf("shown as %s with the error %q after %d restarts, want FAILED after %d", got.State, got.Error, got.Restarts, test.tries/2-1)
			}
		})
	}
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		p := pythonPipeline(t, "fail", dir)
		startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
		submit(t, s, "fails", p, "restart_strategy=none").mustFail("Strict", "ValueError", "the number 3 is one too many")
		if n := count(t, filepath.Join(dir, "try-*")); n != 2 {
			t.Errorf("the element was tried %d times, want 2", n)
		}
	})
	other.release()
}
