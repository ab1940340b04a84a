package schedule

import (
	"fmt"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// BenchmarkAllToAll runs n tasks that read from n on a hundred TaskManagers,
// loses a partition of the first, and then a TaskManager. Scheduling and the
// restart sets must stay linear: sixteen times the edges in four times the time
// and memory.
func BenchmarkAllToAll(b *testing.B) {
	for _, n := range []int{2_500, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			var tasks int
			var longest time.Duration
			for b.Loop() {
				r := &allToAll{b: b, w: newWorld(), n: n}
				r.run()
				tasks, longest = r.ended, max(longest, r.longest)
			}
			b.ReportMetric(float64(tasks), "tasks/op")
			b.ReportMetric(float64(longest.Microseconds())/1000, "longest-ms")
		})
	}
}

// allToAll finishes whatever is started, but for what goes wrong on purpose.
type allToAll struct {
	b          *testing.B
	w          *world
	n          int
	sketch     catalog.Sketch
	gone, lost bool // went wrong: a partition, a TaskManager
	ended      int
	longest    time.Duration // of all decisions
	actions    []Action
}

func (r *allToAll) run() {
	g, err := parseGraph("s0 impulse out=d0\ns1 group in=d0 out=d1\ns2 group in=d1 out=d2\ns3 group in=d2\n" +
		"d0 key blocking\nd1 key blocking\nd2 key blocking\nr0 s0 pointwise\nr1 s1 pointwise\nr2 s2 pointwise\nr3 s3 pointwise")
	if err != nil {
		r.b.Fatal(err)
	}
	w := r.w
	w.policy = Policy{TargetBytes: 1, TasksPerSlot: r.n, KeyGroups: r.n}
	for i := range 100 {
		w.seen.Joined(fmt.Sprintf("m%02d", i), 4, nil, nil, nil)
	}
	w.seen.Known(w.now)
	w.seen.Accepted(&catalog.JobAccepted{Job: "j", At: w.now, Graph: g, KeyGroups: r.n, Restart: catalog.RestartStrategy{Kind: catalog.RestartExponential}})
	bySub := make([]int64, r.n)
	for i := range bySub {
		bySub[i] = 100
	}
	r.sketch = catalog.SketchOf(bySub)
	r.decide()
	for len(r.actions) > 0 {
		a := r.actions[0]
		r.actions = r.actions[1:]
		switch a := a.(type) {
		case Start:
			for _, t := range a.Tasks {
				r.end(a, t)
			}
		case Cancel:
			for _, id := range a.Tasks {
				w.seen.Failed("j", catalog.Failure{Kind: catalog.FailureLost, Task: id, At: w.now}, nil)
			}
			r.decide()
		}
	}
	if w.state.Job("j").State != catalog.Done {
		r.b.Fatalf("%s", w.state)
	}
}

func (r *allToAll) decide() {
	began := time.Now()
	out := Decide(r.w.state, r.w.seen, r.w.policy, r.w.now)
	r.longest = max(r.longest, time.Since(began))
	r.actions = append(r.actions, out.Actions...)
	if out.WakeAt > 0 && len(r.actions) == 0 {
		r.w.now = out.WakeAt
		r.decide()
	}
}

func (r *allToAll) end(a Start, t TaskSpec) {
	w := r.w
	if r.w.seen.running[runKey{"j", t.ID}] == nil {
		return // it was started on the one that is lost
	}
	middle := t.ID.Stage == "s3" && t.ID.Index == r.n/2
	switch {
	case middle && !r.gone:
		r.gone = true
		w.seen.Failed("j", catalog.Failure{Kind: catalog.FailurePartition, Task: t.ID, At: w.now}, []Lost{{"d2", jobgraph.Partition{Index: 7}}})
	case middle && !r.lost:
		r.lost = true
		w.seen.LostManager(a.TaskManager, w.now)
	default:
		done := &catalog.TaskFinished{Job: "j", Task: t.ID, Started: w.now, Ended: w.now.Add(time.Second)}
		for _, o := range t.Outputs {
			done.Outputs = append(done.Outputs, catalog.Output{Dataset: o.Dataset, Bytes: int64(100 * r.n), Sketch: r.sketch, Durable: catalog.OnDisk})
		}
		r.ended++
		w.seen.Finished(done)
	}
	r.decide()
}
