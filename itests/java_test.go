package itests

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func classPath(t *testing.T) string {
	return cached(t, "java", "itests.jar") + string(os.PathListSeparator) + cached(t, "java", "lib", "*")
}

// javaBoot is a command for a PROCESS environment. The worker finds everything
// in its environment variables.
func javaBoot(t *testing.T) string {
	return script(t, "exec java -cp '"+classPath(t)+"' org.apache.beam.fn.harness.FnHarness")
}

// TestJavaWordCount runs a word count written with the Java SDK.
func TestJavaWordCount(t *testing.T) {
	need(t, "java")
	s := serve(t)
	input := text(t, textBytes)
	tests := []struct {
		name string
		args []string
	}{
		{"loopback", []string{"--defaultEnvironmentType=LOOPBACK"}},
		{"process", []string{"--defaultEnvironmentType=PROCESS", "--defaultEnvironmentConfig=" + processConfig(javaBoot(t))}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "counts")
			runClient(t, "java", append([]string{"-cp", classPath(t), "trestle.itests.WordCount",
				"--input=" + input, "--output=" + output, "--filesToStage=" + staged(t),
				"--runner=PortableRunner", "--jobEndpoint=" + s.Job}, test.args...)...)
			mustHaveCounted(t, input, output)
		})
	}
}

// javaAtOnce is how many classes of tests are run at a time. They mostly wait:
// the SDK's client asks how its job does every three seconds.
const javaAtOnce = 2

// javaTestTime bounds one test: some write a hundred megabytes, some split a
// source into dozens.
const javaTestTime = 3 * time.Minute

// quickJava are the classes of the SDK's tests that -quick runs: some that do
// without a TestStream, and one that doesn't.
var quickJava = []string{
	"transforms.FlattenTest", "transforms.ReshuffleTest", "transforms.ParDoTest$BundleInvariantsTests",
	"testing.TestStreamTest",
}

// javaPackage begins the names of all classes of the SDK's tests.
const javaPackage = "org.apache.beam.sdk."

// TestJavaSuite runs the tests that the Java SDK has for runners, its category
// ValidatesRunner.
func TestJavaSuite(t *testing.T) {
	need(t, "java")
	servers := serveJava(t)
	listed := expected(t, "java_expected.txt")
	suite := javaSuite(t)
	switch {
	case *quick:
		maps.DeleteFunc(suite, func(class string, _ []string) bool { return !slices.Contains(quickJava, class) })
	default:
		mustBeListed(t, listed, suite)
	}
	runClasses(t, servers, suite, listed, 1)
}

// flickeringJava are tests that fail now and then on other runners: what begins
// like one of these.
var flickeringJava = []string{
	"transforms.ParDoTest$StateTests/testMapState",
	"transforms.ParDoTest$StateTests/testCombiningState",
	"transforms.ParDoTest$StateTests/testOrderedListState",
	"transforms.ParDoTest$StateTests/testBagState",
	"transforms.ParDoTest$StateTests/testSetState",
	"transforms.ParDoTest$StateTests/testValueState",
}

// TestJavaAgain runs those that flicker, or with -only those whose names contain
// it, -repeat times in a row.
func TestJavaAgain(t *testing.T) {
	need(t, "java")
	if *quick {
		t.Skip("not among the quick ones")
	}
	suite := javaSuite(t)
	for class, tests := range suite {
		suite[class] = slices.DeleteFunc(tests, func(test string) bool {
			name := class + "/" + test
			if *matching != "" {
				return !strings.Contains(name, *matching)
			}
			return !slices.ContainsFunc(flickeringJava, func(f string) bool { return strings.HasPrefix(name, f) })
		})
	}
	maps.DeleteFunc(suite, func(_ string, tests []string) bool { return len(tests) == 0 })
	if len(suite) == 0 {
		t.Fatal("no test has such a name")
	}
	runClasses(t, serveJava(t), suite, expected(t, "java_expected.txt"), *repeat)
}

// javaServers are what the tests are run on.
type javaServers struct {
	usual  server
	wide   server // for those of wideJava
	narrow server // for those of narrowJava
}

func serveJava(t *testing.T) javaServers {
	t.Helper()
	return javaServers{usual: serve(t), wide: serve(t, "--slots=32"), narrow: serve(t, "--slots=1")}
}

// runClasses runs tests of several classes, each so many times.
func runClasses(t *testing.T, s javaServers, suite map[string][]string, listed map[string]string, times int) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(javaAtOnce)
	for _, class := range slices.Sorted(maps.Keys(suite)) {
		for range times {
			group.Go(func() error {
				t.Run(class, func(t *testing.T) { compare(t, runJava(t, s, class, suite[class]), listed) })
				return nil
			})
		}
	}
	_ = group.Wait() // each has told its test
}

// javaSuite lists the tests of each class.
func javaSuite(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("java", "-cp", classPath(t), "trestle.itests.RunnerTests", "--list").Output()
	if err != nil {
		t.Fatalf("list the Java SDK's tests for runners: %v", err)
	}
	suite := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		class, test, _ := strings.Cut(strings.TrimSpace(line), " ")
		class = strings.TrimPrefix(class, javaPackage)
		suite[class] = append(suite[class], test)
	}
	return suite
}

// mustBeListed fails for names on the list that are no test's.
func mustBeListed(t *testing.T, listed map[string]string, suite map[string][]string) {
	t.Helper()
	for name := range listed {
		class, test, _ := strings.Cut(name, "/")
		if !slices.Contains(suite[class], test) {
			t.Errorf("%s is listed, but there is no such test", name)
		}
	}
}

// streamingJava are tests that look for early panes, though their input is
// bounded: it has such only where it is read as if it weren't.
var streamingJava = []string{
	"transforms.GroupByKeyTest$BasicTests/testAfterProcessingTimeContinuationTriggerUsingState",
}

// wideJava are tests that read sources of a hundred shards, for ten seconds each:
// what reads them mostly waits, and is best given many slots.
var wideJava = []string{
	"transforms.ViewTest/testTriggeredLatestSingleton",
}

// narrowJava are tests that count what the threads of a worker got, and are right
// only if one got it all: if the source isn't split between slots. For the
// SDK's own runner they ask for one thread themselves.
var narrowJava = []string{
	"transforms.GroupIntoBatchesTest/testWithShardedKeyInGlobalWindow",
}

// runJava runs tests of one class.
func runJava(t *testing.T, s javaServers, class string, tests []string) map[string]outcome {
	t.Helper()
	var usual, streaming, wide, narrow []string
	for _, test := range tests {
		switch name := class + "/" + test; {
		case slices.Contains(streamingJava, name):
			streaming = append(streaming, test)
		case slices.Contains(wideJava, name):
			wide = append(wide, test)
		case slices.Contains(narrowJava, name):
			narrow = append(narrow, test)
		default:
			usual = append(usual, test)
		}
	}
	outcomes := map[string]outcome{}
	if len(usual) > 0 {
		maps.Copy(outcomes, runJVM(t, s.usual, class, usual))
	}
	if len(streaming) > 0 {
		maps.Copy(outcomes, runJVM(t, s.usual, class, streaming, "--streaming"))
	}
	if len(wide) > 0 {
		maps.Copy(outcomes, runJVM(t, s.wide, class, wide))
	}
	if len(narrow) > 0 {
		maps.Copy(outcomes, runJVM(t, s.narrow, class, narrow))
	}
	return outcomes
}

// runJVM runs tests of one class in a JVM of its own, in which the workers run,
// too.
func runJVM(t *testing.T, s server, class string, tests []string, more ...string) map[string]outcome {
	t.Helper()
	options, err := json.Marshal(append([]string{
		"--runner=TestUniversalRunner", "--jobEndpoint=" + s.Job, "--defaultEnvironmentType=LOOPBACK",
		"--experiments=beam_fn_api", "--filesToStage=" + staged(t),
	}, more...))
	if err != nil {
		t.Fatal(err)
	}
	temp, tls := t.TempDir(), filepath.Join(t.TempDir(), "tls.properties")
	if err := os.WriteFile(tls, []byte(oldTLS), 0o600); err != nil {
		t.Fatal(err)
	}
	return runAllWithin(t, javaTestTime, class+"/", tests, func(todo []string) *exec.Cmd {
		return exec.Command("java", append([]string{
			// A JVM that lives for a minute is best off without its second compiler.
			"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
			// As the SDK's container has it, which some tests look at.
			"-javaagent:" + jamm(t), "-Djava.security.properties=" + tls,
			"-Djava.io.tmpdir=" + temp, "-DbeamTestPipelineOptions=" + string(options),
			"-cp", classPath(t), "trestle.itests.RunnerTests", javaPackage + class,
		}, todo...)...)
	})
}

// oldTLS are properties of a JVM that speaks old versions of TLS, too.
const oldTLS = `jdk.tls.disabledAlgorithms=SSLv3, RC4, DES, MD5withRSA, DH keySize < 1024, EC keySize < 224, 3DES_EDE_CBC, anon, NULL
jdk.tls.legacyAlgorithms=NULL, anon, RC4, DES, 3DES_EDE_CBC, TLSv1, TLSv1.1
`

// jamm is the agent that measures objects.
func jamm(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(cached(t, "java", "lib", "jamm-*.jar"))
	if err != nil || len(found) != 1 {
		t.Fatalf("jamm's jar: %v %v", found, err)
	}
	return found[0]
}

// staged is a small file to stage. Staging the class path would copy 60 MB to
// workers that have it already.
func staged(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "staged")
	if err := os.WriteFile(file, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
