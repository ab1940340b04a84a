package itests

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	chosen   = flag.String("itests", "", "which tests to run: go, python, java, behaviour, failover, comma separated")
	matching = flag.String("only", "", "run only tests of the Python SDK, or in TestJavaAgain of the Java SDK, whose names contain this")
	repeat   = flag.Int("repeat", 10, "how often TestJavaAgain runs its tests")
	quick    = flag.Bool("quick", false, "run only some tests of each suite")
	binary   = flag.String("trestle", "../bin/trestle", "the trestle program")
	endpoint = flag.String("endpoint", "", "HOST:PORT of a running job endpoint to test in place of trestle")
	cacheDir = flag.String("cache", "../.cache", "where compiled suites, the Python environment and jars are kept")
)

// need skips the test unless it was chosen.
func need(t *testing.T, language string) {
	t.Helper()
	if !slices.Contains(strings.Split(*chosen, ","), language) {
		t.Skipf("run with -itests=%s", language)
	}
}

// cached is a path in the cache folder, absolute because tools are run in
// folders of their own.
func cached(t *testing.T, elem ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{*cacheDir}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A server is a started trestle.
type server struct {
	Job string `json:"job"`
	Web string `json:"web"`
	PID int    `json:"pid"`
}

const (
	startTime = 30 * time.Second
	stopTime  = 10 * time.Second
)

// serve starts trestle with a fresh data directory. When the test ends, the
// server must stop within its time, with status 0, and leave neither a process
// nor a temporary file.
func serve(t *testing.T, args ...string) server {
	t.Helper()
	if *endpoint != "" {
		return server{Job: *endpoint}
	}
	dir := t.TempDir()
	temp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(dir, "ready.json")
	mark := "ITEST_MARK=" + rand.Text()
	cmd := exec.Command(*binary, append([]string{
		"serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0",
		"--data=" + filepath.Join(dir, "data"), "--ready-file=" + ready}, args...)...)
	cmd.Env = append(os.Environ(), mark, "TMPDIR="+temp)
	log, err := os.Create(filepath.Join(dir, "trestle.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		stop(t, cmd, exited)
		mustHaveLeftNothing(t, mark, temp)
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", tailOf(log.Name(), 8<<10))
		}
	})
	return awaitReady(t, ready, exited)
}

// awaitReady polls for the ready file, which is how a script would wait.
func awaitReady(t *testing.T, file string, exited <-chan error) server {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(startTime)
	for {
		select {
		case <-tick.C:
			var s server
			if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &s) == nil {
				return s
			}
		case err := <-exited:
			t.Fatalf("trestle serve ended at its start: %v", err)
		case <-late:
			t.Fatalf("trestle serve was not ready within %s", startTime)
		}
	}
}

func stop(t *testing.T, cmd *exec.Cmd, exited <-chan error) {
	if cmd.ProcessState != nil {
		t.Errorf("trestle serve ended before it was told to: %v", cmd.ProcessState)
		return
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("trestle serve stopped with %v, want status 0", err)
		}
	case <-time.After(stopTime):
		t.Errorf("trestle serve did not stop within %s", stopTime)
		_ = cmd.Process.Kill()
		<-exited
	}
}

// mustHaveLeftNothing looks for processes by a variable that all of the
// server's descendants inherit.
func mustHaveLeftNothing(t *testing.T, mark, temp string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err == nil && bytes.Contains(environ, []byte(mark)) {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			t.Errorf("the server left a process: %s", bytes.ReplaceAll(command, []byte{0}, []byte(" ")))
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("the server left temporary files: %v %v", left, err)
	}
}

// tailOf is the end of a file, for messages.
func tailOf(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}

// script writes an executable shell script that a PROCESS environment can name
// as its command.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.sh")
	text := "#!/bin/sh\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { // #nosec: it is to be executed
		t.Fatal(err)
	}
	return path
}

// processConfig is the environment config of a PROCESS environment.
func processConfig(command string) string { return fmt.Sprintf(`{"command": %q}`, command) }
