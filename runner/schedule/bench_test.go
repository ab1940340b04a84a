package schedule

import (
	"testing"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// BenchmarkAllToAll runs ten thousand tasks that read from ten thousand, and
// then loses a partition of the first: scheduling and the restart set must
// stay linear.
func BenchmarkAllToAll(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		g, err := parseGraph("s0 impulse out=d0\ns1 group in=d0 out=d1\ns2 group in=d1 out=d2\ns3 group in=d2\n" +
			"d0 key blocking\nd1 key blocking\nd2 key blocking\nr0 s0 pointwise\nr1 s1 pointwise\nr2 s2 pointwise\nr3 s3 pointwise")
		if err != nil {
			b.Fatal(err)
		}
		w := newWorld()
		w.policy = Policy{TargetBytes: 1, TasksPerSlot: n, KeyGroups: n}
		w.seen.Joined("a", 100, nil, nil, nil)
		w.seen.Known(w.now)
		w.seen.Accepted(&catalog.JobAccepted{Job: "j", At: w.now, Graph: g, KeyGroups: n, Restart: catalog.RestartStrategy{Kind: catalog.RestartExponential}})
		bySub := make([]int64, n)
		for i := range bySub {
			bySub[i] = 100
		}
		sketch := catalog.SketchOf(bySub)
		ended, failed := 0, false
		for actions := Decide(w.state, w.seen, w.policy, w.now).Actions; ; {
			var next []Action
			for _, a := range actions {
				start, ok := a.(Start)
				if !ok {
					continue
				}
				for _, t := range start.Tasks {
					if !failed && t.ID.Stage == "s3" && t.ID.Index == n/2 {
						failed = true
						w.seen.Failed("j", catalog.Failure{Kind: catalog.FailurePartition, Task: t.ID, At: w.now},
							[]Lost{{"d2", jobgraph.Partition{Index: 7}}})
						next = append(next, Decide(w.state, w.seen, w.policy, w.now).Actions...)
						continue
					}
					r := &catalog.TaskFinished{Job: "j", Task: t.ID, Ended: w.now}
					for _, o := range t.Outputs {
						r.Outputs = append(r.Outputs, catalog.Output{Dataset: o.Dataset, Bytes: 100 * n, Sketch: sketch})
					}
					ended++
					w.seen.Finished(r)
					next = append(next, Decide(w.state, w.seen, w.policy, w.now).Actions...)
				}
			}
			if actions = next; len(actions) == 0 {
				break
			}
		}
		if w.state.Job("j").State != catalog.Done {
			b.Fatalf("%s", w.state)
		}
		b.ReportMetric(float64(ended), "tasks/op")
	}
}
