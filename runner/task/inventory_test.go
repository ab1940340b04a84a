package task_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"

	"trestle/coders"
	"trestle/fnapi"
	"trestle/internal/membudget"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/task"
	"trestle/shuffle"
	"trestle/shuffle/driver"
	"trestle/shuffle/localdisk"
	"trestle/shuffle/memory"
)

// noWorkers is task.Workers without any.
type noWorkers struct{}

func (noWorkers) Acquire(context.Context, string, string, *fnapi.Worker) (bundle.Lease, error) {
	return nil, errors.New("there are no workers")
}
func (noWorkers) Failed(string, string) error { return nil }
func (noWorkers) StopJob(string)              {}

// process begins a TaskManager's process on a disk.
func process(t *testing.T, dir string) (*task.TaskManager, *shuffle.Service) {
	t.Helper()
	budget := membudget.New(1) // everything goes to disk
	disk, err := localdisk.New(dir, localdisk.Config{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	service := shuffle.New(budget, map[string]driver.Driver{
		shuffle.Blocking:  disk,
		shuffle.Pipelined: memory.New(memory.Config{Budget: budget, Dir: t.TempDir()}),
	})
	return task.New(task.Config{Name: "tm", Slots: 1, Shuffle: service, Budget: budget, Workers: noWorkers{}, SpillDir: t.TempDir()}), service
}

func write(t *testing.T, s *shuffle.Service, id shuffle.PartitionID, exchange string) {
	t.Helper()
	w, err := s.Create(t.Context(), id, 1, exchange)
	if err != nil {
		t.Fatal(err)
	}
	txn := w.Begin()
	if err := txn.Append(0, []byte("element"), 1); err != nil {
		t.Fatal(err)
	}
	if err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A process that begins on the disk of an earlier one offers what that had
// finished, and can be told to forget it, also by jobs it doesn't know.
func TestInventoryOfDisk(t *testing.T) {
	dir := t.TempDir()
	_, earlier := process(t, dir)
	id := func(job, dataset string, index int, attempt uint32) shuffle.PartitionID {
		return shuffle.PartitionID{Job: job, Dataset: dataset, Index: index, Attempt: attempt}
	}
	for _, id := range []shuffle.PartitionID{id("b", "d1", 0, 1), id("a", "d2", 1, 3), id("a", "d2", 0, 2), id("a", "d1", 0, 1)} {
		write(t, earlier, id, shuffle.Blocking)
	}
	earlier.Release(id("a", "d1", 0, 1))
	write(t, earlier, id("a", "d3", 0, 1), shuffle.Pipelined)
	if _, err := earlier.Create(t.Context(), id("a", "d4", 0, 1), 1, shuffle.Blocking); err != nil {
		t.Fatal(err)
	}

	tm, service := process(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tm.Run(ctx) }()
	has, err := tm.Inventory(ctx)
	want := task.Inventory{Held: []task.HeldPartitions{
		{Job: "a", Dataset: "d2", Partitions: []task.Partition{{Index: 0, Attempt: 2}, {Index: 1, Attempt: 3}}},
		{Job: "b", Dataset: "d1", Partitions: []task.Partition{{Index: 0, Attempt: 1}}},
	}}
	if err != nil || !reflect.DeepEqual(has, want) {
		t.Errorf("inventory %+v, %v", has, err)
	}
	rd, err := service.Open(t.Context(), shuffle.Blocking, []shuffle.PartitionID{id("a", "d2", 1, 3)}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if elems, _, err := rd.Next(t.Context()); err != nil || string(elems) != "element" {
		t.Errorf("read %q, %v", elems, err)
	}
	rd.Close()
	tm.Release("b", "d1", []task.Partition{{Index: 0, Attempt: 1}, {Index: 7, Attempt: 7}})
	tm.ReleaseJob("never heard of")
	tm.ReleaseJob("a")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	service.ReleaseJob("b")
	if n := count(dir); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// A TaskManager that drains finishes what runs and tells of it still, but takes
// nothing new.
func TestDrain(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{
		"Make": func(c *bundletest.Call, _ *coders.Value) error {
			close(began)
			<-end
			return c.EmitAll("b", "a:1")
		},
	}})
	first, second := r.spec("s1", 0, 1, 1), r.spec("s1", 1, 2, 1)
	first.Slot = 1
	r.start(first)
	<-began
	short, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("impatient")
	cancel(impatient)
	if err := r.tm.Drain(short); !errors.Is(err, impatient) {
		t.Errorf("Drain = %v", err)
	}
	r.start(second)
	if f := r.end(second.ID).Failed; f == nil || f.Cause != task.CauseCanceled {
		t.Errorf("%+v, want canceled", f)
	}
	has, err := r.tm.Inventory(t.Context())
	// The second may be there still, for a moment after its report.
	has.Running = slices.DeleteFunc(has.Running, func(x task.RunningTask) bool { return x.ID == second.ID })
	if want := []task.RunningTask{{ID: first.ID, Slot: 1}}; err != nil || !reflect.DeepEqual(has.Running, want) {
		t.Errorf("runs %v, %v", has.Running, err)
	}
	close(end)
	if err := r.tm.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	r.finish(first)
	r.start(first) // asked again, to no effect: it has been done
	if has, err := r.tm.Inventory(t.Context()); err != nil || len(has.Running) != 0 {
		t.Errorf("runs %v, %v", has.Running, err)
	}
}
