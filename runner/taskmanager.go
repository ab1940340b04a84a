package runner

import (
	"context"

	"trestle/runner/jobgraph"
	"trestle/runner/task"
)

// A TaskManager runs tasks in slots. Its methods don't wait for work to be
// done: what comes of it is told by reports. All may be called again with the
// same arguments, to no further effect.
type TaskManager interface {
	// Name is unique and lasts: a TaskManager that comes back with its disk has
	// the same name.
	Name() string
	// Slots is the number of columns it runs at once.
	Slots() int
	// Inventory tells what it has at hand. It is called once, when it joins and
	// before anything else.
	Inventory(ctx context.Context) (task.Inventory, error)
	// Start runs the tasks together in the slot, which is free; all specs carry
	// its number. They share it until the last has ended. A start that can't be
	// done is reported as Failed. The specs are read only.
	Start(column []task.Spec)
	// Cancel stops the tasks, which report Failed with CauseCanceled, or
	// Finished if that came first. Unknown ids are ignored.
	Cancel(ids []task.ID)
	// DrainJob has the sources of a streaming job stop, those of tasks that are
	// started later, too: what is under way is worked off, and the tasks finish.
	DrainJob(job string)
	// Release forgets partitions that nobody will read again. Unknown ones are
	// ignored.
	Release(job string, dataset jobgraph.DatasetID, partitions []task.Partition)
	// ReleaseJob forgets all there is of a job: partitions, workers, queues. No
	// task of it runs then, and none will.
	ReleaseJob(job string)
	// Reports gives what happens to its tasks, in order. It is closed when the
	// TaskManager is lost: then nothing of it runs, and what it held is gone
	// until it joins again.
	Reports() <-chan task.Report
}

// A Leaver is a TaskManager that, having said that it drains, waits to be told
// that it can leave.
type Leaver interface {
	TaskManager
	// MayLeave says that it runs nothing, and that nobody will miss what it holds
	// and keeps.
	MayLeave()
}
