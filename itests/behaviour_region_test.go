package itests

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const (
	pacedBlobs    = 80
	pacedBlobSize = 256 << 10
)

// goThenPython is a pipeline whose first half is written in Go and whose second
// half, from the function See on, in Python.
func goThenPython(t *testing.T, dir string) *pipepb.Pipeline {
	t.Helper()
	p := goPipeline(t, goBoot(t, filepath.Join(dir, "go-pids")), func(s beam.Scope) {
		all := beam.Reshuffle(s, beam.ParDo(s, &blobsFn{N: pacedBlobs, Size: pacedBlobSize}, beam.Impulse(s)))
		beam.ParDo(s, &paceFn{Dir: dir, Until: filepath.Join(dir, "go")}, all)
	})
	var given string
	for _, tr := range p.GetComponents().GetTransforms() {
		if strings.HasSuffix(tr.GetUniqueName(), "paceFn") {
			for _, out := range tr.GetOutputs() {
				given = out
			}
		}
	}
	second := pythonPipeline(t, "see", dir)
	startBy(t, second, notedBoot(t, filepath.Join(dir, "python-pids")))
	splice(t, p, given, second)
	return p
}

// TestRegion shows that a pipeline region is real: a stage in Go and a stage in
// Python behind a pointwise edge run at once, and what goes from one to the
// other is never on disk. The Go stage holds its third bundle back until the
// test has seen what the Python stage made of an earlier one.
func TestRegion(t *testing.T) {
	need(t, "behaviour")
	// Little memory makes small bundles.
	s := launch(t, t.TempDir(), "--memory=128MiB", "--slots=2")
	dir := t.TempDir()
	j := submit(t, s.server, "region", goThenPython(t, dir), "restart_strategy=none")
	eventually(t, jobLimit, "Python has an element, and Go waits with the next", func() bool {
		return exists(filepath.Join(dir, "seen")) && exists(filepath.Join(dir, "waits"))
	})
	during := j.shown()
	upper, second := during.stageNamed(t, "paceFn"), during.stageNamed(t, "See")
	if upper.State != "running" || second.State != "running" {
		t.Errorf("the Go stage is %s and the Python stage %s, want both running", upper.State, second.State)
	}
	if upper.Region != second.Region || upper.Environment == second.Environment {
		t.Errorf("regions %s and %s, environments %q and %q: want one region, two environments",
			upper.Region, second.Region, upper.Environment, second.Environment)
	}
	edge := between(t, during, upper.ID, second.ID)
	if edge.Exchange != "pipelined" || edge.Partitioning != "forward" {
		t.Errorf("the edge is %+v, want pipelined and forward", edge)
	}
	mustNotBeOnDisk(t, s, edge.ID)
	openGate(t, filepath.Join(dir, "go"))
	j.mustEnd()
	mustNotBeOnDisk(t, s, edge.ID)

	after := j.shown()
	upper, second = after.stageNamed(t, "paceFn"), after.stageNamed(t, "See")
	if !second.Started.Before(upper.Ended) || !upper.Started.Before(second.Ended) {
		t.Errorf("the stages ran from %v to %v and from %v to %v: want at once", upper.Started, upper.Ended, second.Started, second.Ended)
	}
	for i, task := range upper.Tasks {
		if i >= len(second.Tasks) || task.Slot != second.Tasks[i].Slot {
			t.Errorf("tasks %d of the two stages have different slots", i)
		}
		if task.Durable != "memory" {
			t.Errorf("task %d of the Go stage wrote to %q, want memory", i, task.Durable)
		}
	}
	if upper.OutElements != pacedBlobs || second.InElements != pacedBlobs || second.InBytes < pacedBlobs*pacedBlobSize || upper.OutBytes != second.InBytes {
		t.Errorf("%d elements and %d bytes went out, %d and %d in; want %d of %d bytes", upper.OutElements, upper.OutBytes,
			second.InElements, second.InBytes, pacedBlobs, pacedBlobSize)
	}
	var want []string
	for i := range pacedBlobs {
		want = append(want, fmt.Sprintf("%d of %d bytes", i, pacedBlobSize))
	}
	slices.Sort(want)
	if got := lines(filepath.Join(dir, "out")); !slices.Equal(got, want) {
		t.Errorf("Python saw %d elements: %.300q", len(got), got)
	}
	s.stopCleanly(t)
}

// openGate lets workers go on that wait for a file.
func openGate(t *testing.T, path string) {
	t.Helper()
	if !first(path) {
		t.Fatalf("%s is there already", path)
	}
}

// between is the only dataset between two stages.
func between(t *testing.T, j shownJob, producer, consumer string) shownDataset {
	t.Helper()
	i := slices.IndexFunc(j.Graph.Datasets, func(d shownDataset) bool {
		return d.Producer == producer && slices.Contains(d.Consumers, consumer)
	})
	if i < 0 {
		t.Fatalf("no dataset between %s and %s: %+v", producer, consumer, j.Graph.Datasets)
	}
	return j.Graph.Datasets[i]
}

// mustNotBeOnDisk looks for files of a dataset, finished or not, and for files
// in the data directory that are open and have no name any more.
func mustNotBeOnDisk(t *testing.T, s *trestle, dataset string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.data(), "task"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // files come and go
		}
		if !d.IsDir() && strings.HasPrefix(d.Name(), dataset+".") {
			t.Errorf("the dataset is on disk: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.PID))
	if err != nil {
		t.Error(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, s.data()) && strings.HasSuffix(to, "(deleted)") {
			t.Errorf("there is a file without a name: %s", to)
		}
	}
}

// TestParallelism sees that the size of the input decides the tasks of a
// grouping stage.
func TestParallelism(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--slots=4", "--target-task-size=2MiB")
	chosen := func(megabytes int) shownStage {
		dir := t.TempDir()
		p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
			blobs := beam.ParDo(s, &blobsFn{N: megabytes << 8, Size: 4 << 10}, beam.Impulse(s))
			keyed := beam.GroupByKey(s.Scope("Many"), beam.ParDo(s, blobKey, blobs))
			gather(s, beam.ParDo(s, &blobCheckFn{}, keyed), filepath.Join(dir, "out"))
		})
		j := submit(t, s, "parallelism", p)
		j.mustEnd()
		if n := len(lines(filepath.Join(dir, "out"))); n != megabytes<<8 {
			t.Errorf("%d blobs came out, want %d", n, megabytes<<8)
		}
		return j.shown().stageNamed(t, "blobCheckFn")
	}
	small, large := chosen(2), chosen(20)
	if small.ChosenFrom < 2<<20 || large.ChosenFrom < 20<<20 {
		t.Errorf("chosen from %d and %d bytes, want at least 2 and 20 MiB", small.ChosenFrom, large.ChosenFrom)
	}
	if small.Parallelism < 1 || large.Parallelism < 4*small.Parallelism || len(large.Tasks) != large.Parallelism {
		t.Errorf("parallelism %d and, with ten times the input, %d (%d tasks)", small.Parallelism, large.Parallelism, len(large.Tasks))
	}
	t.Logf("2 MiB: %d tasks; 20 MiB: %d tasks", small.Parallelism, large.Parallelism)
}

// TestExchangeModes runs one pipeline in all modes, with equal results.
func TestExchangeModes(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--slots=4")
	const n = 20_000
	results := map[string][]byte{}
	modes := map[string]string{} // kinds of edges, by mode
	for _, mode := range []string{"all-blocking", "pointwise-pipelined", "all-pipelined"} {
		dir := t.TempDir()
		output := filepath.Join(dir, "out")
		j := submit(t, s, mode, sumsInTwo(t, dir, n, output), "exchange_mode="+mode)
		j.mustEnd()
		mustHaveSums(t, output, n)
		results[mode], _ = os.ReadFile(output)
		var kinds []string
		for _, d := range j.shown().Graph.Datasets {
			if kind := d.Partitioning + " " + d.Exchange; !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
		slices.Sort(kinds)
		modes[mode] = strings.Join(kinds, ", ")
	}
	if !bytes.Equal(results["all-blocking"], results["pointwise-pipelined"]) || !bytes.Equal(results["all-blocking"], results["all-pipelined"]) {
		t.Error("the modes give different results")
	}
	if strings.Contains(modes["all-blocking"], "pipelined") || !strings.Contains(modes["all-pipelined"], "key pipelined") ||
		!strings.Contains(modes["pointwise-pipelined"], "forward pipelined") || !strings.Contains(modes["pointwise-pipelined"], "key blocking") {
		t.Errorf("edges by mode: %v", modes)
	}
}

// sumsInTwo is sums in two environments, so that it has pointwise edges.
func sumsInTwo(t *testing.T, dir string, n int, output string) *pipepb.Pipeline {
	t.Helper()
	p := sums(t, goBoot(t, filepath.Join(dir, "pids")), n, output)
	// Environments that are equal but for their ids would be one to the runner.
	other := sums(t, goBoot(t, filepath.Join(dir, "other-pids")), n, output)
	moveTo(t, p, "keyFn", "another", other.GetComponents().GetEnvironments())
	return p
}

// moveTo gives the transform whose name ends in word another environment.
func moveTo(t *testing.T, p *pipepb.Pipeline, word, id string, from map[string]*pipepb.Environment) {
	t.Helper()
	moved := 0
	for _, tr := range p.GetComponents().GetTransforms() {
		if strings.HasSuffix(tr.GetUniqueName(), word) && len(tr.GetSubtransforms()) == 0 {
			p.Components.Environments[id] = from[tr.GetEnvironmentId()]
			tr.EnvironmentId = id
			moved++
		}
	}
	if moved != 1 {
		t.Fatalf("%d transforms are named %s", moved, word)
	}
}
