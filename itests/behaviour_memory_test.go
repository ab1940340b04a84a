package itests

import (
	"path/filepath"
	"testing"
)

// TestPythonOutOfMemory has a worker take more memory than it may, and die of it
// as the kernel has it: by a SIGKILL without a word. Its successor does the
// bundle again, and the job goes on.
func TestPythonOutOfMemory(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--workers-per-environment=1")
	for name, option := range map[string]string{"batch": "streaming=false", "streaming": "streaming=true"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pids := filepath.Join(dir, "pids")
			p := pythonPipeline(t, "hoard", dir)
			startBy(t, p, script(t,
				`echo $$ >>'`+pids+`'`,
				`( while sleep 0.02; do`,
				`    rss=$(awk '/^VmRSS/ { print $2 }' /proc/$$/status) || exit 0`,
				`    if [ "${rss:-0}" -gt 600000 ]; then kill -9 $$; echo over the limit >>'`+dir+`'/killed; exit 0; fi`,
				`  done ) &`,
				"exec "+python(t)+" -m apache_beam.runners.worker.sdk_worker_main"))
			submit(t, s, "hoard-"+name, p, option).mustEnd()
			mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 100)
			if n := len(lines(filepath.Join(dir, "killed"))); n != 1 {
				t.Errorf("%d workers were killed for the memory that they took, want one", n)
			}
			if n := len(lines(pids)); n != 2 {
				t.Errorf("%d workers were started, want one and its successor", n)
			}
		})
	}
}
