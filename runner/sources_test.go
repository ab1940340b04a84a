package runner_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"trestle/raftmeta/catalog"
	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// sourceFunc asks a source as a test says.
type sourceFunc func(ctx context.Context) (runner.Bounds, error)

func (f sourceFunc) Bind(ctx context.Context, _, _ string, _ jobgraph.StageID) (runner.Bounds, error) {
	return f(ctx)
}

// runWith is run with sources.
func runWith(t *testing.T, j *memoryJournal, sources runner.Sources, ms ...runner.TaskManager) (house, func() error) {
	t.Helper()
	j.board = runner.NewBoard(nil)
	d := house{runner.New(runner.Config{Journal: j, Board: j.board, TaskManagers: ms, Sources: sources}), j.board}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return d, func() error { cancel(); return <-ended }
}

// sourceStage is a source and what reads it.
func sourceStage() *jobgraph.Graph {
	g := oneStage()
	g.Stages[0].Bind = "test"
	return g
}

// A task that reads from a source starts once its bounds are recorded, and with
// them; under another Dispatcher the source isn't asked again.
func TestSourceIsBoundBeforeItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, m := &memoryJournal{}, newManager("a", 1)
		tell := make(chan struct{})
		d, stop := runWith(t, j, sourceFunc(func(ctx context.Context) (runner.Bounds, error) {
			<-tell
			return runner.Bounds{Value: []byte("all"), Notes: slices.Repeat([]string{"mind \xff"}, 1000)}, nil
		}), m)
		m.behave = func(task.Spec) *task.Report { return nil }
		submit(t, d, "j", sourceStage())
		synctest.Wait()
		if got := m.tasks(); len(got) > 0 {
			t.Fatalf("%v started before it was known what they read", got)
		}
		close(tell)
		synctest.Wait()
		if len(m.started) != 1 || string(m.started[0].Impulse) != "all" {
			t.Fatalf("started %+v", m.started)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		bound, ok := j.records[1].(*catalog.InputBound)
		if !ok || len(bound.Notes) != 101 || bound.Notes[0] != "mind \uFFFD" {
			t.Fatalf("recorded %.1000v", j.records)
		}

		again := newManager("a", 1)
		d, stop = runWith(t, j, sourceFunc(func(context.Context) (runner.Bounds, error) {
			t.Error("the source was asked again")
			return runner.Bounds{}, nil
		}), again)
		<-d.Ready()
		expect(t, "states", states(t, d, "j"), []string{"STARTING", "RUNNING", "DONE"})
		if string(again.started[0].Impulse) != "all" {
			t.Errorf("started %+v", again.started)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// What can't be found out fails the job, and no other.
func TestSourceThatFails(t *testing.T) {
	for want, f := range map[string]sourceFunc{
		`transform "Read": nobody is there`: func(context.Context) (runner.Bounds, error) {
			return runner.Bounds{}, errors.New(`transform "Read": nobody is there`)
		},
		"may take 1 to 4194304":    func(context.Context) (runner.Bounds, error) { return runner.Bounds{}, nil },
		"knows no bounded sources": nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			var sources runner.Sources
			if f != nil {
				sources = f
			}
			d, stop := runWith(t, &memoryJournal{}, sources, newManager("a", 1))
			submit(t, d, "bad", sourceStage())
			submit(t, d, "good", oneStage())
			if got := states(t, d, "bad"); len(got) != 2 || !strings.HasPrefix(got[1], "FAILED: ") || !strings.Contains(got[1], want) {
				t.Errorf("states %v, want %q", got, want)
			}
			expect(t, "good", states(t, d, "good"), []string{"STARTING", "RUNNING", "DONE"})
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A job that is cancelled doesn't wait for its source, nor the source for it.
func TestCancelWhileBinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan struct{})
		d, stop := runWith(t, &memoryJournal{}, sourceFunc(func(ctx context.Context) (runner.Bounds, error) {
			<-ctx.Done()
			close(left)
			return runner.Bounds{}, ctx.Err()
		}), newManager("a", 1))
		submit(t, d, "j", sourceStage())
		synctest.Wait()
		if err := d.Cancel(t.Context(), "j"); err != nil {
			t.Fatal(err)
		}
		<-left
		if got := states(t, d, "j"); got[len(got)-1] != "CANCELLED" {
			t.Errorf("states %v", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
