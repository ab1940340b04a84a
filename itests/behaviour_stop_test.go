package itests

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// withChild is a boot script whose worker starts a process of its own, which
// doesn't care for signals or for its parent's end.
func withChild(t *testing.T, pids string) string {
	t.Helper()
	inner := goBoot(t, pids)
	return script(t, `(trap '' TERM INT HUP; echo $$ >>'`+pids+`'; sh -c 'trap "" TERM INT HUP; echo $$ >>"`+pids+`"; while :; do sleep 1; done' &) >/dev/null 2>&1`,
		`exec `+inner+` "$@"`)
}

// middle is a server in the middle of two jobs: one in Go, whose workers have
// children, and one in Python. A third has ended.
type middle struct {
	*trestle
	dir     string
	ended   *job
	waiting *waiting
	python  *job
	pids    string // of all workers
}

func startMiddle(t *testing.T) *middle {
	t.Helper()
	m := &middle{trestle: launch(t, t.TempDir()), dir: t.TempDir()}
	m.pids = filepath.Join(m.dir, "pids")
	m.ended = submit(t, m.server, "ended", smallJob(t, goBoot(t, m.pids), filepath.Join(m.dir, "ended")))
	m.ended.mustEnd()

	m.waiting = &waiting{dir: filepath.Join(m.dir, "waiting")}
	if err := os.Mkdir(m.waiting.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := waitingPipeline(t, m.waiting.dir)
	startBy(t, p, withChild(t, m.pids))
	m.waiting.job = submit(t, m.server, "waits", p)
	second := pythonPipeline(t, "wait", m.dir)
	startBy(t, second, notedBoot(t, m.pids))
	m.python = submit(t, m.server, "python", second, "sdk_worker_parallelism=2")
	eventually(t, jobLimit, "both jobs run", func() bool {
		return exists(filepath.Join(m.waiting.dir, "reached")) && exists(filepath.Join(m.dir, "reached"))
	})
	return m
}

// marked reports whether there is a process with the variable.
func marked(mark string) bool {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	return slices.ContainsFunc(environs, func(path string) bool {
		environ, err := os.ReadFile(path)
		return err == nil && bytes.Contains(environ, []byte(mark))
	})
}

// goOn starts a new server on the old one's data, which must know all jobs and
// bring them to their right end.
func (m *middle) goOn(t *testing.T) {
	t.Helper()
	next := launch(t, m.trestle.dir)
	var list struct{ Jobs []shownJob }
	getJSON(t, next.server, "/api/v1/jobs", &list)
	states := map[string]string{}
	for _, j := range list.Jobs {
		states[j.ID] = j.State
	}
	if len(states) != 3 || states[m.ended.id] != "DONE" || states[m.waiting.id] != "RUNNING" || states[m.python.id] != "RUNNING" {
		t.Errorf("after the restart: jobs are %v, want one DONE and two RUNNING", states)
	}
	ended := m.ended.at(next.server)
	ended.mustEnd()
	if got := ended.shown(); len(got.Stages) == 0 || got.Stages[0].State != "finished" {
		t.Errorf("the ended job is shown without its stages: %+v", got)
	}
	if _, committed := ended.metrics(); committed["elements of itests.numbersFn"] != "100" {
		t.Errorf("the ended job's metrics are %v", committed)
	}
	openGate(t, filepath.Join(m.dir, "go"))
	m.waiting.job = m.waiting.at(next.server)
	m.waiting.release()
	m.python.at(next.server).mustEnd()
	mustHaveNumbers(t, filepath.Join(m.dir, "out"), 0, 100)
	next.stopCleanly(t)
	mustBeGone(t, m.pids, time.Second)
}

// TestStopInMidJob stops a server by SIGTERM in the middle of jobs. All workers
// and what they started are gone, nothing temporary is left on disk, and the
// next server takes the jobs up.
func TestStopInMidJob(t *testing.T) {
	need(t, "behaviour")
	m := startMiddle(t)
	m.stopCleanly(t)
	mustBeGone(t, m.pids, 0)
	mustBeTidy(t, m.data())
	m.goOn(t)
	mustBeTidy(t, m.data())
}

// TestKilledInMidJob kills it as a power cut does. The workers die too.
func TestKilledInMidJob(t *testing.T) {
	need(t, "behaviour")
	m := startMiddle(t)
	m.kill()
	mustBeGone(t, m.pids, 5*time.Second)
	eventually(t, 5*time.Second, "whoever ended the workers ends, too", func() bool { return !marked(m.mark) })
	mustHaveLeftNothing(t, m.mark, filepath.Join(m.trestle.dir, "tmp"))
	m.goOn(t)
	mustBeTidy(t, m.data())
}

// durable are the folders of a data directory that outlive the process.
var durable = []string{"journal", "blobs", "artifacts", "messages"}

// mustBeTidy checks that a stopped server's data directory holds nothing but
// what is durable.
func mustBeTidy(t *testing.T, data string) {
	t.Helper()
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(data, path)
		if err != nil {
			return err
		}
		top, _, below := strings.Cut(rel, string(filepath.Separator))
		temporary := strings.Contains(d.Name(), "tmp") || strings.Contains(rel, "incoming/")
		if below && (!slices.Contains(durable, top) || temporary) {
			t.Errorf("left in the data directory: %s", rel)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestKilledOften kills the server again and again at arbitrary moments. What
// was accepted ends right nevertheless.
func TestKilledOften(t *testing.T) {
	need(t, "behaviour")
	if *quick {
		t.Skip("not among the quick ones")
	}
	const n = 50_000
	home, dir := t.TempDir(), t.TempDir()
	pids := filepath.Join(dir, "pids")
	var jobs []*job
	for i, life := range []int{40, 90, 160, 250, 370, 600} {
		s := launch(t, home)
		if i < 3 {
			output := filepath.Join(dir, string(rune('a'+i)))
			p := sums(t, goBoot(t, pids), n, output)
			jobs = append(jobs, submit(t, s.server, "often", p))
		}
		<-time.After(time.Duration(life) * time.Millisecond)
		s.kill()
	}
	s := launch(t, home)
	for i, j := range jobs {
		j.at(s.server).mustEnd()
		mustHaveSums(t, filepath.Join(dir, string(rune('a'+i))), n)
	}
	s.stopCleanly(t)
	mustBeGone(t, pids, time.Second)
	mustBeTidy(t, s.data())
}
