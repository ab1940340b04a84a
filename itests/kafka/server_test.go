package kafka

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// serve starts trestle and gives its job endpoint. When the test ends, it must
// stop with status 0.
func serve(t testing.TB) string {
	t.Helper()
	return serveIn(t, t.TempDir())
}

// serveIn is serve with all that it keeps in a directory.
func serveIn(t testing.TB, dir string) string {
	t.Helper()
	job, _ := serveBoth(t, dir)
	return job
}

// serveBoth is serveIn that gives the web page's address, too.
func serveBoth(t testing.TB, dir string) (job, web string) {
	t.Helper()
	r := startServer(t, *program, dir, "serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0", "--data="+filepath.Join(dir, "data"))
	return r.Job, r.Web
}

// A readiness is what a server says of itself in its ready file.
type readiness struct{ Job, Web, Expansion string }

// startServer starts a program that serves, and waits until it says so. When the
// test ends, it must stop with status 0, and take back what it has said.
func startServer(t testing.TB, program, dir string, args ...string) readiness {
	t.Helper()
	ready := filepath.Join(dir, "ready.json")
	cmd := exec.Command(program, append(args, "--ready-file="+ready)...)
	log, err := os.Create(filepath.Join(dir, "trestle.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("trestle %s stopped with %v", args[0], err)
			}
			if _, err := os.Stat(ready); err == nil {
				t.Errorf("trestle %s has left its ready file", args[0])
			}
		case <-time.After(20 * time.Second):
			t.Errorf("trestle %s did not stop", args[0])
			_ = cmd.Process.Kill()
			<-exited
		}
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("its log ends:\n%s", text[max(0, len(text)-4<<10):])
		}
		log.Close()
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for {
		select {
		case <-tick.C:
			var r readiness
			if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &r) == nil {
				return r
			}
		case err := <-exited:
			exited <- err
			t.Fatalf("trestle %s ended at its start: %v", args[0], err)
		case <-late:
			t.Fatalf("trestle %s was not ready in time", args[0])
		}
	}
}

// trestle runs the command line to its end, and returns what it said.
func trestle(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	return trestleIn(t.Context(), t, args...)
}

// trestleIn runs it until ctx ends at the latest.
func trestleIn(ctx context.Context, t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, *program, args...)
	cmd.Dir = t.TempDir()
	return cmd.CombinedOutput()
}

// python runs one of the Python pipelines, and returns what it said.
func python(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	return pythonScript(t, "pipelines.py", args...)
}

// pythonScript runs a script beside them.
func pythonScript(t testing.TB, name string, args ...string) ([]byte, error) {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(*cacheDir, "venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join("python", name))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{script}, args...)...)
	cmd.Dir = t.TempDir()
	return cmd.CombinedOutput()
}
