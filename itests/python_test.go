package itests

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// The suites are programs that run tests of the SDK, and of ours.
const (
	modelSuite     = "model_suite.py"
	portableSuite  = "portable_runner_suite.py"
	validatesSuite = "validates_runner_suite.py"
)

// TestPythonSuite runs PortableRunnerTest, in batch and in streaming, with
// workers in the client, in processes of ours, and in those of the SDK's own
// worker pool.
func TestPythonSuite(t *testing.T) {
	need(t, "python")
	s := serve(t)
	listed := expected(t, "python_expected.txt")
	run := func(name string, flags ...string) {
		t.Run(name, func(t *testing.T) { compare(t, runPython(t, s, portableSuite, name+"/", flags...), listed) })
	}
	run("loopback", "--environment_type=LOOPBACK")
	run("streaming", "--environment_type=LOOPBACK", "--streaming")
	if *quick {
		return
	}
	run("process", "--environment_type=PROCESS", "--environment_config="+processConfig(pythonBoot(t)))
	pool := pythonPool(t)
	run("pool", "--environment_type=EXTERNAL", "--environment_config="+pool)
	run("streaming-pool", "--environment_type=EXTERNAL", "--environment_config="+pool, "--streaming")
}

// TestPythonValidatesRunner runs all tests of the SDK that are marked
// it_validatesrunner.
func TestPythonValidatesRunner(t *testing.T) {
	need(t, "python")
	if *quick {
		t.Skip("not among the quick ones")
	}
	s := serve(t)
	listed := expected(t, "python_expected.txt")
	t.Run("batch", func(t *testing.T) {
		compare(t, runPython(t, s, validatesSuite, "validates/"), listed)
	})
	t.Run("streaming", func(t *testing.T) {
		compare(t, runPython(t, s, validatesSuite, "validates-streaming/", "--streaming"), listed)
	})
}

// TestPythonModel runs pipelines of ours: what the SDK's suites leave out.
func TestPythonModel(t *testing.T) {
	need(t, "python")
	s := serve(t)
	defer drainCounting(t, s, "DrainMe", "looped", 3).mustHaveDrained(t)
	t.Run("batch", func(t *testing.T) { compare(t, runPython(t, s, modelSuite, "model/"), nil) })
	t.Run("streaming", func(t *testing.T) {
		compare(t, runPython(t, s, modelSuite, "model-streaming/", "--streaming"), nil)
	})
}

// pythonPool starts the SDK's worker pool and returns its address. A worker is
// a process that the pool starts with the program boot of its path, or the
// interpreter's own.
func pythonPool(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close() // the pool is told a port, and can't tell one
	cmd := exec.Command(python(t), "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port="+port)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(python(t))+":"+os.Getenv("PATH"), "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its workers, too
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	for began := time.Now(); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return "localhost:" + port
		}
		if time.Since(began) > time.Minute {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
			t.Fatalf("the worker pool doesn't listen: %v\n%s", err, said.Bytes())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// quickPython are the tests of PortableRunnerTest that -quick runs.
const quickPython = "test_assert_that test_create test_flatten test_group_by_key test_gbk_side_input test_read test_reshuffle test_sdf test_pardo_side_inputs test_combine_per_key test_custom_merging_window test_custom_window_type"

// runPython runs all tests of a suite. Names in the outcome have the prefix.
func runPython(t *testing.T, s server, suite, prefix string, flags ...string) map[string]outcome {
	t.Helper()
	suite, err := filepath.Abs(filepath.Join("python", suite))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python(t), "-B", suite, "--list").Output()
	if err != nil {
		t.Fatalf("list the tests of %s: %v", filepath.Base(suite), err)
	}
	names := strings.Fields(string(out))
	if *quick && filepath.Base(suite) == portableSuite {
		names = strings.Fields(quickPython)
	}
	if *matching != "" {
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.Contains(n, *matching) })
	}
	return runAll(t, prefix, names, func(todo []string) *exec.Cmd {
		return exec.Command(python(t), append(append([]string{"-B", suite, "--endpoint=" + s.Job}, flags...), todo...)...)
	})
}
