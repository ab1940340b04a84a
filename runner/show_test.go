package runner_test

import (
	"testing"
	"testing/synctest"

	"trestle/element"
	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// A streaming stage is as far as the last of its tasks, and nowhere as long as one
// of them hasn't said; each task tells for itself how much it has done.
func TestWatermarksAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("a", 4) // of which the job has half
		m.behave = func(task.Spec) *task.Report { return nil }
		d, stop := run(t, &memoryJournal{}, m)
		g := twoStages()
		g.Streaming = true
		g.Datasets[0].Exchange = jobgraph.Pipelined
		g.Regions = []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1", "s2"}}}
		submit(t, d, "j", g)
		synctest.Wait()
		var specs []task.Spec
		for _, s := range m.started {
			if s.Stage == "s2" {
				specs = append(specs, s)
			}
		}
		if len(specs) != 2 {
			t.Fatalf("%d tasks of s2 run: %v", len(specs), m.tasks())
		}
		shows := func(want *runner.Watermarks) {
			t.Helper()
			synctest.Wait()
			shown, err := d.Job("j")
			if err != nil {
				t.Fatal(err)
			}
			got := shown.Stages[1].Watermarks
			if (got == nil) != (want == nil) || got != nil && *got != *want {
				t.Errorf("the stage shows %v, want %v", got, want)
			}
		}
		says := func(i int, input, output element.Timestamp, elements int64) {
			m.reports <- task.Report{Progress: &task.Progress{ID: specs[i].ID, InElements: elements, Watermarks: &task.Watermarks{Input: input, Output: output}}}
		}
		shows(nil)
		says(0, 20, 10, 3)
		shows(&runner.Watermarks{Input: runner.Watermark(element.MinTimestamp), Output: runner.Watermark(element.MinTimestamp)})
		says(1, 15, 12, 4)
		shows(&runner.Watermarks{Input: 15, Output: 10})
		says(0, 30, 30, 5)
		shows(&runner.Watermarks{Input: 15, Output: 12})
		if shown, err := d.Job("j"); err != nil || shown.Stages[1].InElements != 9 || shown.Stages[1].Tasks[1].InElements != 4 {
			t.Errorf("%v: the stage and its tasks show other amounts: %+v", err, shown.Stages[1])
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
