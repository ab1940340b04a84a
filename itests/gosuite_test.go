package itests

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const beamModule = "github.com/apache/beam/sdks/v2"

// goSuites are packages of the Go SDK whose tests run pipelines.
var goSuites = []string{
	"go/test/integration/primitives",
	"go/test/integration/synthetic",
	"go/test/integration/wordcount",
	"go/test/regression",
	"go/pkg/beam",
	"go/pkg/beam/testing/passert",
	"go/pkg/beam/transforms/stats",
	"go/pkg/beam/transforms/filter",
	"go/pkg/beam/transforms/top",
	"go/pkg/beam/transforms/batch",
	"go/pkg/beam/transforms/periodic",
	"go/pkg/beam/io/textio",
	"go/pkg/beam/io/avroio",
	"go/pkg/beam/io/parquetio",
	"go/pkg/beam/io/databaseio",
	"go/pkg/beam/io/fileio",
	"go/examples/large_wordcount",
	"go/examples/snippets",
}

// TestGo runs the Go SDK's own tests with workers in the client.
func TestGo(t *testing.T) {
	need(t, "go")
	s := serve(t)
	listed := expected(t, "go_expected.txt")
	suites := goSuites
	if *quick {
		suites = []string{"go/pkg/beam/testing/passert", "go/pkg/beam/transforms/top", "go/test/integration/wordcount"}
	}
	for _, suite := range suites {
		t.Run(path.Base(suite), func(t *testing.T) {
			if path.Base(suite) == "primitives" {
				// TestDrain waits for somebody who drains its job.
				defer drainJobs(t, s, "TruncateFn", 2*time.Second).mustHaveDrained(t)
			}
			compare(t, runGo(t, s, suite, "", "--environment_type=LOOPBACK"), listed)
		})
	}
}

// fewTests are enough to see that workers of another kind do their work: the
// model itself is covered by TestGo.
const fewTests = `^(TestParDo.*|TestGBK.*|TestCoGBK.*|TestFlatten.*|TestReshuffle.*|TestParDoPipelineOptions|TestParDoSideInput|TestSimpleWindowing.*)$`

// TestGoProcess runs workers as processes that a script of the user's starts.
func TestGoProcess(t *testing.T) {
	need(t, "go")
	if *quick {
		t.Skip("not among the quick ones")
	}
	suite := "go/test/integration/primitives"
	boot := script(t,
		`for a; do`,
		`  case $a in --id=*|--logging_endpoint=*|--control_endpoint=*) set -- "$@" "$a";; esac`,
		`  shift`,
		`done`,
		`exec `+compileGo(t, suite)+` --worker=true "$@"`)
	// The client stages a worker binary whatever the environment. Ours has it, so
	// anything small will do.
	outcomes := runGo(t, serve(t), suite, fewTests, "--environment_type=PROCESS",
		"--environment_config="+processConfig(boot), "--worker_binary="+boot)
	compare(t, outcomes, expected(t, "go_expected.txt"))
}

// TestGoNative asks for containers, and gets the staged worker binary where no
// container engine runs.
func TestGoNative(t *testing.T) {
	need(t, "go")
	suite, few := "go/test/integration/primitives", fewTests
	if *quick {
		suite, few = "go/test/integration/wordcount", ""
	}
	worker := compileGo(t, suite)
	outcomes := runGo(t, serve(t), suite, few, "--environment_type=DOCKER", "--worker_binary="+worker)
	compare(t, outcomes, expected(t, "go_expected.txt"))
}

// compileGo compiles the tests of a package of the Go SDK, once for each of its
// versions.
func compileGo(t *testing.T, suite string) string {
	t.Helper()
	return compileGoAs(t, suite, "")
}

// compileStaticGo is for machines that have none of this one's libraries.
func compileStaticGo(t *testing.T, suite string) string {
	t.Helper()
	return compileGoAs(t, suite, "static", "CGO_ENABLED=0")
}

func compileGoAs(t *testing.T, suite, kind string, env ...string) string {
	t.Helper()
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}-{{.GoVersion}}", beamModule).Output()
	if err != nil {
		t.Fatalf("find the Go SDK: %v", err)
	}
	name := strings.ReplaceAll(strings.TrimPrefix(suite, "go/"), "/", "-")
	file := cached(t, "bin", fmt.Sprintf("%s-%s%s.test", name, strings.TrimSpace(string(version)), kind))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	t.Logf("compiling %s", suite)
	// Under another name first: a half-written file must not be found next time.
	compile := exec.Command("go", "test", "-c", "-mod=mod", "-modfile="+suitesModule(t), "-o", file+".new", beamModule+"/"+suite)
	compile.Env = append(os.Environ(), env...)
	out, err := compile.CombinedOutput()
	if err != nil {
		t.Fatalf("compile %s: %v\n%s", suite, err, out)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// suitesModule is a copy of our go.mod, beside one of go.sum, which may come to
// name what suites need and Trestle doesn't.
func suitesModule(t *testing.T) string {
	t.Helper()
	file := cached(t, "go", "suites.mod")
	for from, to := range map[string]string{"../go.mod": file, "../go.sum": strings.TrimSuffix(file, "mod") + "sum"} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			err = os.WriteFile(to, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// runGo runs the tests of a suite whose names match. Names in the outcome are
// suite/Test.
func runGo(t *testing.T, s server, suite, match string, flags ...string) map[string]outcome {
	t.Helper()
	program := compileGo(t, suite)
	if match == "" {
		match = "."
	}
	list, err := exec.Command(program, "-test.list", match).Output()
	if err != nil {
		t.Fatalf("list the tests of %s: %v", suite, err)
	}
	// One wants a worker that may die of its memory's limit; see TestGoOutOfMemory.
	names := slices.DeleteFunc(strings.Fields(string(list)), func(name string) bool { return name == outOfMemory })
	return runAll(t, path.Base(suite)+"/", names, func(todo []string) *exec.Cmd {
		args := []string{"-test.v", "-test.run", "^(" + strings.Join(todo, "|") + ")$",
			"--runner=universal", "--endpoint=" + s.Job}
		cmd := exec.Command(program, append(args, flags...)...)
		cmd.Dir = besideData(t, suite)
		return cmd
	})
}

// besideData is a folder for a suite to run in, from where the SDK's files for
// tests are as far as from the suite's own, in which tests would write.
func besideData(t *testing.T, suite string) string {
	t.Helper()
	sdk, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", beamModule).Output()
	if err != nil {
		t.Fatalf("find the Go SDK: %v", err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, suite)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(strings.TrimSpace(string(sdk)), "go/data"), filepath.Join(root, "go/data")); err != nil {
		t.Fatal(err)
	}
	return dir
}
