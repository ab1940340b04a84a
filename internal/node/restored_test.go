package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"trestle/runner/remote"
)

// When a group was restored from a backup, its TaskManagers find out and end
// with the reason; started again, they work for it as it is now.
func TestRestored(t *testing.T) {
	c := DefaultsOf(JobManager)
	c.Name, c.Data = "jm1", filepath.Join(t.TempDir(), "jm1")
	c.JobAddr, c.WebAddr, c.ClusterAddr = "127.0.0.1:0", "127.0.0.1:0", freePorts(t, 1)[0]
	manager := start(t, c)
	first := finish(t, jobsAt(t, manager.ready.Job), jobsAt(t, manager.ready.Job))
	manager.stop()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(c.Data)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // each start begins a term
		manager = start(t, c)
		_ = finish(t, jobsAt(t, manager.ready.Job), jobsAt(t, manager.ready.Job))
		manager.stop()
	}
	manager = start(t, c)
	tm := taskManager(t, []string{c.ClusterAddr}, open)
	worker, err := New(tm, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, nil) }()
	shape, id := submitSome(t, manager)
	done(t, jobsAt(t, manager.ready.Job), id)
	if err := shape.Check(); err != nil {
		t.Error(err)
	}
	manager.stop()

	if err := os.RemoveAll(c.Data); err != nil {
		t.Fatal(err)
	}
	c.Data = backup
	manager = start(t, c)
	defer manager.stop()
	restored := (*remote.RestoredError)(nil)
	if err := <-ended; !errors.As(err, &restored) {
		t.Fatalf("the TaskManager ended with %v", err)
	}
	again := start(t, tm)
	defer again.stop()
	shape, id = submitSome(t, manager)
	done(t, jobsAt(t, manager.ready.Job), id)
	if err := shape.Check(); err != nil {
		t.Error(err)
	}
	if len(manager.node.board.Jobs()) != 2 || manager.node.board.Jobs()[0].ID != first {
		t.Errorf("after the restore there are %d jobs", len(manager.node.board.Jobs()))
	}
}

// One member's backup brings a whole group back, put in the place of each.
func TestRestoredAll(t *testing.T) {
	configs, addrs := trio(t, open)
	startAll := func() (all []*process) {
		for _, c := range configs {
			all = append(all, start(t, c))
		}
		return all
	}
	stopAll := func(all []*process) {
		for _, p := range all {
			p.stop()
		}
	}
	managers := startAll()
	first := finish(t, jobsAt(t, managers[0].ready.Job), jobsAt(t, managers[1].ready.Job))
	stopAll(managers)
	backup := configs[1].Data
	for i := range configs {
		configs[i].Data = filepath.Join(t.TempDir(), "restored")
		if err := os.CopyFS(configs[i].Data, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
	}
	managers = startAll()
	defer stopAll(managers)
	worker := start(t, taskManager(t, addrs, open))
	defer worker.stop()
	shape, id := submitSome(t, managers[2])
	for _, m := range managers {
		done(t, jobsAt(t, m.ready.Job), first)
		done(t, jobsAt(t, m.ready.Job), id)
	}
	if err := shape.Check(); err != nil {
		t.Error(err)
	}
}
