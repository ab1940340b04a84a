package itests

import (
	"bytes"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

var generated = flag.Int("generated", 50, "how many generated pipelines to run")

// TestGenerated runs small pipelines that are made by chance, in ways that
// must give the same; see package generated.
func TestGenerated(t *testing.T) {
	need(t, "behaviour")
	program := filepath.Join(t.TempDir(), "generated")
	if out, err := exec.Command("go", "build", "-o", program, "./generated").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n := *generated
	if *quick {
		n = min(n, 10)
	}
	// Some of them do nothing but take their time.
	s := serve(t, "--slots=8")
	cmd := exec.CommandContext(t.Context(), program, "-job-endpoint="+s.Job, fmt.Sprintf("-count=%d", n), "-parallel=4")
	cmd.Dir = t.TempDir()
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, log.Bytes()[max(0, log.Len()-4<<10):], out[max(0, len(out)-16<<10):])
	}
	t.Logf("%s", out[max(0, len(out)-2000):])
}
