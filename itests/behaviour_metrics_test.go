package itests

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// measured is what a job tells of itself: values by a name such as
// "numbers@transform" or "elements@collection".
type measured map[string]string

// metrics asks for a job's metrics.
func (j *job) metrics() (attempted, committed measured) {
	j.t.Helper()
	resp, err := j.jobs.GetJobMetrics(j.t.Context(), &jobpb.GetJobMetricsRequest{JobId: j.id})
	if err != nil {
		j.t.Fatal(err)
	}
	p, err := j.jobs.GetPipeline(j.t.Context(), &jobpb.GetJobPipelineRequest{JobId: j.id})
	if err != nil {
		j.t.Fatal(err)
	}
	c := p.GetPipeline().GetComponents()
	return read(j.t, c, resp.GetMetrics().GetAttempted()), read(j.t, c, resp.GetMetrics().GetCommitted())
}

func read(t *testing.T, c *pipepb.Components, infos []*pipepb.MonitoringInfo) measured {
	t.Helper()
	out := measured{}
	for _, info := range infos {
		l := info.GetLabels()
		name := l["NAME"]
		if strings.HasPrefix(info.GetUrn(), "beam:metric:user:") {
			tr := c.GetTransforms()[l["PTRANSFORM"]]
			if tr == nil || l["NAMESPACE"] != "itests" {
				t.Errorf("metric %s of namespace %q and of transform %q, which is not in the pipeline", name, l["NAMESPACE"], l["PTRANSFORM"])
			}
		} else if info.GetUrn() == "beam:metric:element_count:v1" {
			// By who makes it: collections have no names that a person knows.
			name = "elements of " + makerOf(c, l["PCOLLECTION"])
		} else {
			continue
		}
		if _, twice := out[name]; twice {
			t.Errorf("metric %s comes twice", name)
		}
		out[name] = value(t, info)
	}
	return out
}

// makerOf is the last part of the name of the transform that makes a
// collection.
func makerOf(c *pipepb.Components, collection string) string {
	for _, tr := range c.GetTransforms() {
		if len(tr.GetSubtransforms()) > 0 {
			continue
		}
		for _, out := range tr.GetOutputs() {
			if out == collection {
				name := tr.GetUniqueName()
				return name[strings.LastIndex(name, "/")+1:]
			}
		}
	}
	return "nobody: " + collection
}

// value decodes a payload as a person would write it.
func value(t *testing.T, info *pipepb.MonitoringInfo) string {
	t.Helper()
	var all []int64
	for b := info.GetPayload(); len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			break
		}
		all = append(all, int64(v))
		b = b[n:]
	}
	switch info.GetType() {
	case "beam:metrics:sum_int64:v1":
		if len(all) == 1 {
			return fmt.Sprint(all[0])
		}
	case "beam:metrics:distribution_int64:v1":
		if len(all) == 4 {
			return fmt.Sprintf("count %d sum %d min %d max %d", all[0], all[1], all[2], all[3])
		}
	case "beam:metrics:latest_int64:v1":
		if len(all) == 2 { // the first one is when it was set
			return fmt.Sprintf("latest %d", all[1])
		}
	}
	t.Errorf("metric %s of type %s has the payload %x", info.GetUrn(), info.GetType(), info.GetPayload())
	return ""
}

// TestMetrics compares a job's metrics with what it did, also where a bundle
// was tried again.
func TestMetrics(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	const n = 1000
	for _, crashes := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("go after %d crashes", crashes), func(t *testing.T) {
			dir := t.TempDir()
			p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
				col := beam.ParDo(s, &measureFn{}, numbers(s, n))
				gatherNumbers(s, beam.ParDo(s, &crashFn{Dir: dir, At: 777, Times: crashes}, col), filepath.Join(dir, "out"))
			})
			j := submit(t, s, "metrics", p)
			j.mustEnd()
			mustHaveNumbers(t, filepath.Join(dir, "out"), 0, n)
			mustMeasure(t, j, measured{
				"numbers":                      "1000",
				"odd":                          "500",
				"sizes":                        "count 1000 sum 499500 min 0 max 999",
				"last":                         "latest 42",
				"elements of itests.measureFn": "1000",
				"elements of itests.crashFn":   "1000",
				"elements of itests.decimal":   "1000",
			})
		})
	}
	t.Run("python", func(t *testing.T) {
		dir := t.TempDir()
		p := pythonPipeline(t, "crash", dir)
		startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
		j := submit(t, s, "metrics-python", p)
		j.mustEnd()
		mustMeasure(t, j, measured{"numbers": "100", "elements of ParDo(Crash)": "100"})
	})
}

// mustMeasure compares a job's metrics with those that are wanted; there may be
// others.
func mustMeasure(t *testing.T, j *job, want measured) {
	t.Helper()
	attempted, committed := j.metrics()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if committed[name] != want[name] {
			t.Errorf("committed %s is %q, want %q", name, committed[name], want[name])
		}
		if attempted[name] != want[name] {
			t.Errorf("attempted %s is %q, want %q", name, attempted[name], want[name])
		}
	}
	if t.Failed() {
		t.Logf("all committed: %v", committed)
	}
}
