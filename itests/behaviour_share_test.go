package itests

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// slowStages is a pipeline of stages that run one after another and take 50 ms
// each.
func slowStages(t *testing.T, dir string, stages int) *pipepb.Pipeline {
	t.Helper()
	return goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
		col := numbers(s, 1)
		for range stages {
			col = beam.Reshuffle(s, beam.ParDo(s, &slowFn{Millis: 50}, col))
		}
		gatherNumbers(s, col, filepath.Join(dir, "out"))
	})
}

// ends are the times at which a job's slow stages ended.
func ends(j shownJob) []time.Time {
	var all []time.Time
	for _, st := range j.Stages {
		if st.Root == "read" {
			all = append(all, st.Ended)
		}
	}
	return all
}

// by counts the times that have come at a moment.
func by(moment time.Time, times []time.Time) int {
	n := 0
	for _, at := range times {
		if !at.After(moment) {
			n++
		}
	}
	return n
}

// TestFairness runs two jobs on one slot: with equal priority they go on side
// by side, with unequal one the more important one goes faster, and yet the
// other one goes on, too.
func TestFairness(t *testing.T) {
	need(t, "behaviour")
	const stages = 24
	tests := []struct {
		name          string
		first, second string // priorities
		least, most   int    // stages that the second one has behind it when the first one has half
	}{
		{name: "equal", first: "priority=0", second: "priority=0", least: 6, most: 18},
		{name: "unequal", first: "priority=3", second: "priority=0", least: 1, most: 5},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, "--slots=1")
			dirs := []string{t.TempDir(), t.TempDir()}
			second := submit(t, s, "second", slowStages(t, dirs[1], stages), test.second)
			first := submit(t, s, "first", slowStages(t, dirs[0], stages), test.first)
			first.mustEnd()
			second.mustEnd()
			for _, dir := range dirs {
				mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 1)
			}
			firstEnds, secondEnds := ends(first.shown()), ends(second.shown())
			if len(firstEnds) < stages || len(secondEnds) < stages {
				t.Fatalf("%d and %d stages, want at least %d", len(firstEnds), len(secondEnds), stages)
			}
			behind := by(firstEnds[stages/2], secondEnds) - by(first.shown().Stages[0].Started, secondEnds)
			if behind < test.least || behind > test.most {
				t.Errorf("when the first job had done %d stages, the second one had done %d; want %d to %d", stages/2, behind, test.least, test.most)
			}
			t.Logf("%d stages of the first job, %d of the second", stages/2, behind)
		})
	}
}
