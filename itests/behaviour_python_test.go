package itests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// pythonPipeline has behaviour_pipelines.py build the pipeline of that name.
func pythonPipeline(t *testing.T, name, dir string) *pipepb.Pipeline {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pipeline.pb")
	runClient(t, python(t), absolute(t, "python/behaviour_pipelines.py"), name, dir, file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var p pipepb.Pipeline
	if err := proto.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// splice joins two pipelines: what the second one's first Impulse gave is now
// the first one's collection. Both must have the same coder.
func splice(t *testing.T, into *pipepb.Pipeline, collection string, p *pipepb.Pipeline) {
	t.Helper()
	const prefix = "second-"
	c, from := into.GetComponents(), prefixed(p.GetComponents(), prefix)
	impulse := ""
	for id, tr := range from.GetTransforms() {
		if tr.GetSpec().GetUrn() == "beam:transform:impulse:v1" {
			impulse = id
		}
	}
	if impulse == "" || c.GetPcollections()[collection] == nil {
		t.Fatalf("nothing to splice: impulse %q, collection %q", impulse, collection)
	}
	var given string
	for _, out := range from.GetTransforms()[impulse].GetOutputs() {
		given = out
	}
	delete(from.Transforms, impulse)
	delete(from.Pcollections, given)
	for _, tr := range from.GetTransforms() {
		tr.Subtransforms = slices.DeleteFunc(tr.Subtransforms, func(id string) bool { return id == impulse })
		for name, in := range tr.GetInputs() {
			if in == given {
				tr.Inputs[name] = collection
			}
		}
	}
	maps.Copy(c.Transforms, from.GetTransforms())
	maps.Copy(c.Pcollections, from.GetPcollections())
	maps.Copy(c.Coders, from.GetCoders())
	maps.Copy(c.WindowingStrategies, from.GetWindowingStrategies())
	maps.Copy(c.Environments, from.GetEnvironments())
	for _, id := range p.GetRootTransformIds() {
		if prefix+id != impulse {
			into.RootTransformIds = append(into.RootTransformIds, prefix+id)
		}
	}
	for _, r := range p.GetRequirements() {
		if !slices.Contains(into.Requirements, r) {
			into.Requirements = append(into.Requirements, r)
		}
	}
}

// prefixed puts a prefix before all ids, so that they differ from another
// pipeline's. Payloads are left as they are: those of plain ParDos hold none.
func prefixed(c *pipepb.Components, prefix string) *pipepb.Components {
	out := proto.Clone(c).(*pipepb.Components)
	for _, tr := range out.GetTransforms() {
		each(tr.Subtransforms, prefix)
		eachValue(tr.Inputs, prefix)
		eachValue(tr.Outputs, prefix)
		if tr.EnvironmentId != "" {
			tr.EnvironmentId = prefix + tr.EnvironmentId
		}
	}
	for _, col := range out.GetPcollections() {
		col.CoderId = prefix + col.CoderId
		col.WindowingStrategyId = prefix + col.WindowingStrategyId
	}
	for _, coder := range out.GetCoders() {
		each(coder.ComponentCoderIds, prefix)
	}
	for _, w := range out.GetWindowingStrategies() {
		w.WindowCoderId = prefix + w.WindowCoderId
		if w.EnvironmentId != "" {
			w.EnvironmentId = prefix + w.EnvironmentId
		}
	}
	out.Transforms = eachKey(out.Transforms, prefix)
	out.Pcollections = eachKey(out.Pcollections, prefix)
	out.Coders = eachKey(out.Coders, prefix)
	out.WindowingStrategies = eachKey(out.WindowingStrategies, prefix)
	out.Environments = eachKey(out.Environments, prefix)
	return out
}

func each(ids []string, prefix string) {
	for i := range ids {
		ids[i] = prefix + ids[i]
	}
}

func eachValue(ids map[string]string, prefix string) {
	for k, v := range ids {
		ids[k] = prefix + v
	}
}

func eachKey[T any](m map[string]T, prefix string) map[string]T {
	out := make(map[string]T, len(m))
	for k, v := range m {
		out[prefix+k] = v
	}
	return out
}

// TestPythonWorkers sees that two worker processes of one environment both
// work.
func TestPythonWorkers(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--slots=4")
	dir := t.TempDir()
	p := pythonPipeline(t, "meet", dir)
	pids := filepath.Join(dir, "pids")
	startBy(t, p, notedBoot(t, pids))
	// Its elements wait until two processes have one each.
	submit(t, s, "meet", p, "sdk_worker_parallelism=2", "restart_strategy=none").mustEnd()
	mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 200)
	if n := len(lines(pids)); n != 2 {
		t.Errorf("%d workers were started, want 2", n)
	}
	if n := count(t, filepath.Join(dir, "here-*")); n != 2 {
		t.Errorf("%d workers had elements, want 2", n)
	}
}

// TestPythonCachedState has Python's workers keep state from one bundle to the
// next, which they do in streams only, while bundles fail and workers die. What
// these had cached must not be seen by others, nor what others wrote be missed.
func TestPythonCachedState(t *testing.T) {
	need(t, "behaviour")
	s := serve(t, "--slots=4")
	for _, streaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("streaming=%v", streaming), func(t *testing.T) {
			dir := t.TempDir()
			p := pythonPipeline(t, "tally", dir)
			startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
			submit(t, s, "tally", p, "sdk_worker_parallelism=2", "max_bundle_size=30", "max_cache_memory_usage_mb=100", "restart_strategy=none", fmt.Sprint("streaming=", streaming)).mustEnd()
			var want []string
			for key := range 10 {
				sum, all := 0, make([]string, 0, 200)
				for x := key; x < 2000; x += 10 {
					sum += x
					all = append(all, fmt.Sprint(x))
				}
				want = append(want, fmt.Sprintf("%d %d [%s]", key, sum, strings.Join(all, ", ")))
			}
			if got := lines(filepath.Join(dir, "out")); !slices.Equal(got, want) {
				t.Errorf("%d keys of 10: %.2000q", len(got), got)
			}
			if raised, died := count(t, filepath.Join(dir, "raised-*")), count(t, filepath.Join(dir, "died-*")); raised != 7 || died != 2 {
				t.Errorf("bundles raised %d times and workers died %d times, want 7 and 2", raised, died)
			}
		})
	}
}

// TestPythonCachedSideInput reads a side input again when more of it has come. A
// worker may keep what it has read, but not beyond that.
func TestPythonCachedSideInput(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	p := pythonPipeline(t, "grow", dir)
	startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
	submit(t, s, "grow", p, "max_cache_memory_usage_mb=100", "sdk_worker_parallelism=1").mustEnd()
	if got, want := lines(filepath.Join(dir, "out")), []string{"main 1 side", "main 2 side", "main 3 side side"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
