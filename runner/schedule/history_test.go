package schedule

import (
	"fmt"
	"testing"

	"trestle/raftmeta/catalog"
)

// TestHistoryBytes ends jobs with large metrics. Memory has room for those of
// two; but the latest is kept, whatever its size.
func TestHistoryBytes(t *testing.T) {
	w := newWorld()
	w.policy.HistoryBytes = 1000
	w.seen.Joined("a", 1, nil, nil, nil)
	w.seen.Known(w.now)
	for i, c := range []struct {
		metrics int
		want    string
	}{{500, "[j0]"}, {500, "[j0 j1]"}, {1, "[j1 j2]"}, {5000, "[j3]"}, {10, "[j4]"}} {
		g, err := parseGraph("s0 impulse\nr0 s0 pointwise")
		if err != nil {
			t.Fatal(err)
		}
		id := catalog.JobID(fmt.Sprint("j", i))
		w.seen.Accepted(&catalog.JobAccepted{Job: id, At: w.now, Plan: "p", Graph: g, KeyGroups: 1})
		w.decide()
		w.seen.Finished(&catalog.TaskFinished{Job: id, Task: w.taskID(string(id), "s0[0]"), Ended: w.now, Metrics: make([]byte, c.metrics)})
		w.decide()
		var got []catalog.JobID
		restored := catalog.NewState()
		for r := range w.state.Snapshot() {
			if err := restored.Apply(r); err != nil {
				t.Fatal(err)
			}
		}
		for i, j := range w.state.Jobs() {
			got = append(got, j.ID)
			if again := restored.Jobs()[i]; again.MetricsBytes() != j.MetricsBytes() {
				t.Errorf("job %s has %d bytes of metrics, and %d when restored", j.ID, j.MetricsBytes(), again.MetricsBytes())
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("after %s: %v are remembered, want %s", id, got, c.want)
		}
	}
}
