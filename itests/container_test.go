package itests

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// goImage is what the test names the image that it makes.
const goImage = "localhost/trestle-itests-go:latest"

// TestGoContainer runs workers in containers, where an engine can: those of an
// image with the boot program of the Go SDK's own container. When the server has
// stopped no container is left.
func TestGoContainer(t *testing.T) {
	need(t, "go")
	if *quick {
		t.Skip("not among the quick ones")
	}
	engine := containerEngine(t)
	makeGoImage(t, engine)
	suite := "go/test/integration/wordcount"
	worker := compileStaticGo(t, suite)
	t.Cleanup(func() { noContainers(t, engine) }) // after the server has stopped
	s := serve(t)
	outcomes := runGo(t, s, suite, "", "--environment_type=DOCKER", "--environment_config="+goImage, "--worker_binary="+worker)
	compare(t, outcomes, expected(t, "go_expected.txt"))
}

// containerEngine is docker or podman, if it answers.
func containerEngine(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"docker", "podman"} {
		if exec.Command(program, "version", "--format", "{{.Server.Version}}").Run() == nil {
			return program
		}
	}
	t.Skip("neither docker nor podman answers here")
	return ""
}

// makeGoImage makes an image of nothing but the boot program, without asking
// any registry, and skips the test where the engine can't run it.
func makeGoImage(t *testing.T, engine string) {
	t.Helper()
	boot, err := os.ReadFile(compileBoot(t))
	if err != nil {
		t.Fatal(err)
	}
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	put := func(name string, mode int64, content []byte) {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("tmp/", 0o1777, nil)
	put("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/false\n")) // Go's SDK asks who it is
	put("opt/apache/beam/boot", 0o755, boot)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	load := exec.Command(engine, "import", "--change", `ENTRYPOINT ["/opt/apache/beam/boot"]`, "-", goImage)
	load.Stdin = &root
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("make an image: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command(engine, "rmi", "--force", goImage).Run() })
	// Without arguments the boot program says that it needs an id.
	out, _ := exec.Command(engine, "run", "--rm", "--network=host", goImage).CombinedOutput()
	if !strings.Contains(string(out), "No id provided") {
		t.Skipf("%s can't run containers here: %s", engine, out)
	}
}

func noContainers(t *testing.T, engine string) {
	t.Helper()
	out, err := exec.Command(engine, "ps", "--all", "--quiet", "--filter", "name=trestle-").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("containers are left: %s", out)
	}
}
