package itests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// jobTime bounds a word count. It is long because shared machines are slow.
const jobTime = 3 * time.Minute

func python(t *testing.T) string { return cached(t, "venv", "bin", "python") }

// pythonBoot is a command for a PROCESS environment. The worker finds
// everything in its environment variables.
func pythonBoot(t *testing.T) string {
	return script(t, "exec "+python(t)+" -m apache_beam.runners.worker.sdk_worker_main")
}

// runClient runs a program that submits a pipeline and waits for its end.
func runClient(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = t.TempDir()
	// A client that takes too long dies telling where it was.
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "PYTHONFAULTHANDLER=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGABRT) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out[max(0, len(out)-8<<10):])
	}
}

// TestPythonWordCount runs the word count that comes with the SDK.
func TestPythonWordCount(t *testing.T) {
	need(t, "python")
	s := serve(t)
	input := text(t, textBytes)
	tests := []struct {
		name string
		args []string
	}{
		{"loopback", []string{"--environment_type=LOOPBACK"}},
		{"process", []string{"--environment_type=PROCESS", "--environment_config=" + processConfig(pythonBoot(t))}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "counts")
			runClient(t, python(t), append([]string{"-m", "apache_beam.examples.wordcount",
				"--input=" + input, "--output=" + output,
				"--runner=PortableRunner", "--job_endpoint=" + s.Job}, test.args...)...)
			mustHaveCounted(t, input, output)
		})
	}
}

// TestPythonSuite runs PortableRunnerTest.
func TestPythonSuite(t *testing.T) {
	need(t, "python")
	s := serve(t)
	listed := expected(t, "python_expected.txt")
	t.Run("loopback", func(t *testing.T) {
		compare(t, runPython(t, s, "--environment_type=LOOPBACK"), listed)
	})
	if *quick {
		return
	}
	t.Run("process", func(t *testing.T) {
		compare(t, runPython(t, s, "--environment_type=PROCESS", "--environment_config="+processConfig(pythonBoot(t))), listed)
	})
}

// quickPython are the tests of PortableRunnerTest that -quick runs.
const quickPython = "test_assert_that test_create test_flatten test_group_by_key test_gbk_side_input test_read test_reshuffle test_sdf test_pardo_side_inputs test_combine_per_key"

func runPython(t *testing.T, s server, flags ...string) map[string]outcome {
	t.Helper()
	suite, err := filepath.Abs("python/portable_runner_suite.py")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python(t), suite, "--list").Output()
	if err != nil {
		t.Fatalf("list the tests of PortableRunnerTest: %v", err)
	}
	names := strings.Fields(string(out))
	if *quick {
		names = strings.Fields(quickPython)
	}
	return runAll(t, "", names, func(todo []string) *exec.Cmd {
		return exec.Command(python(t), append(append([]string{suite, "--endpoint=" + s.Job}, flags...), todo...)...)
	})
}
