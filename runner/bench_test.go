package runner_test

import (
	"context"
	"testing"
	"time"

	"trestle/runner"
)

// BenchmarkSmallJob runs one-task jobs one after another: what the JobManager
// alone costs a job, its log apart.
func BenchmarkSmallJob(b *testing.B) {
	board := runner.NewBoard(nil)
	d := runner.New(runner.Config{Journal: &memoryJournal{board: board}, Board: board, TaskManagers: []runner.TaskManager{newManager("a", 2)}})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	for i := 0; b.Loop(); i++ {
		id := time.Duration(i).String()
		if err := d.Submit(ctx, runner.Submission{ID: id, Plan: "p", Graph: oneStage()}); err != nil {
			b.Fatal(err)
		}
		seq, err := board.Watch(ctx, id)
		if err != nil {
			b.Fatal(err)
		}
		for range seq { //nolint:revive // to its end
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
