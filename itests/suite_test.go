package itests

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// testTime bounds one test of a suite.
const testTime = 60 * time.Second

// runAll runs tests one after another in as few processes as possible, and
// tells how each ended. The command for the tests that are left to do must
// print what a Go test binary prints under -test.v. A test that hangs or ends
// the process doesn't keep the others from running.
func runAll(t *testing.T, prefix string, todo []string, command func(todo []string) *exec.Cmd) map[string]outcome {
	t.Helper()
	return runAllWithin(t, testTime, prefix, todo, command)
}

// runAllWithin is runAll with another bound for one test.
func runAllWithin(t *testing.T, each time.Duration, prefix string, todo []string, command func(todo []string) *exec.Cmd) map[string]outcome {
	t.Helper()
	outcomes := map[string]outcome{}
	for len(todo) > 0 {
		run := suiteRun{t: t, each: each, prefix: prefix, outcomes: outcomes}
		run.do(command(todo))
		left := slices.DeleteFunc(slices.Clone(todo), func(name string) bool {
			_, done := outcomes[prefix+name]
			return done
		})
		if len(left) == len(todo) {
			t.Fatalf("none of %v was run:\n%s", todo, run.said.String())
		}
		todo = left
	}
	return outcomes
}

// A suiteRun is one process that runs tests.
type suiteRun struct {
	t        *testing.T
	each     time.Duration // bounds one test
	prefix   string        // of names in outcomes
	outcomes map[string]outcome

	current string       // the test that runs now
	said    bytes.Buffer // what was written since it began
}

var testResult = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`)

// do runs the process until it ends or a test takes too long.
func (r *suiteRun) do(cmd *exec.Cmd) {
	if cmd.Dir == "" {
		cmd.Dir = r.t.TempDir()
	}
	// Clients leave files in the temporary directory.
	cmd.Env = append(os.Environ(), "TMPDIR="+r.t.TempDir())
	cmd.WaitDelay = 5 * time.Second
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { write.CloseWithError(cmd.Wait()) }()

	late := make(chan struct{})
	limit := time.AfterFunc(r.each, func() {
		close(late)
		_ = cmd.Process.Kill()
	})
	defer limit.Stop()
	lines := bufio.NewReader(read)
	for {
		line, err := lines.ReadString('\n')
		if r.note(line) {
			limit.Reset(r.each)
		}
		if err != nil {
			break
		}
	}
	if r.current == "" {
		return
	}
	// The process ended in the middle of a test.
	select {
	case <-late:
		r.end(r.current, "timeout")
	default:
		r.end(r.current, "fail")
	}
}

// note reads one line and reports whether a test begins with it.
func (r *suiteRun) note(line string) bool {
	if r.said.Len() < 256<<10 {
		r.said.WriteString(line)
	}
	if m := testResult.FindStringSubmatch(line); m != nil {
		r.end(m[2], strings.ToLower(m[1]))
	}
	name, ok := strings.CutPrefix(strings.TrimSpace(line), "=== RUN ")
	if !ok || strings.Contains(name, "/") {
		return false
	}
	r.current = strings.TrimSpace(name)
	r.said.Reset()
	return true
}

func (r *suiteRun) end(name, status string) {
	said := r.said.String()
	r.outcomes[r.prefix+name] = outcome{status: status, detail: said[max(0, len(said)-4<<10):]}
	r.current = ""
}
