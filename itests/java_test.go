package itests

import (
	"os"
	"path/filepath"
	"testing"
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
	// Staging the class path would copy 60 MB to workers that have it already.
	staged := filepath.Join(t.TempDir(), "staged")
	if err := os.WriteFile(staged, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
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
				"--input=" + input, "--output=" + output, "--filesToStage=" + staged,
				"--runner=PortableRunner", "--jobEndpoint=" + s.Job}, test.args...)...)
			mustHaveCounted(t, input, output)
		})
	}
}
