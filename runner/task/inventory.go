package task

import (
	"cmp"
	"context"
	"slices"

	"trestle/runner/jobgraph"
)

// Inventory tells what runs, and what can be served: partitions that tasks of
// this process have finished, and those that an earlier one left on its disk. A
// task counts as running until its last report is on its way, so that a partition
// is never told of whose task is neither running nor reported.
func (m *TaskManager) Inventory(context.Context) (Inventory, error) {
	var has Inventory
	m.mu.Lock()
	for id, t := range m.tasks {
		has.Running = append(has.Running, RunningTask{ID: id, Slot: t.slot})
	}
	has.Queues = m.heldQueues()
	m.mu.Unlock()
	slices.SortFunc(has.Running, func(a, b RunningTask) int { return compareIDs(a.ID, b.ID) })

	ids := m.cfg.Shuffle.Held()
	type key struct{ job, dataset string }
	at := map[key]int{}
	for _, id := range ids {
		k := key{id.Job, id.Dataset}
		i, ok := at[k]
		if !ok {
			i = len(has.Held)
			at[k] = i
			has.Held = append(has.Held, HeldPartitions{Job: id.Job, Dataset: jobgraph.DatasetID(id.Dataset)})
		}
		h := &has.Held[i]
		h.Partitions = append(h.Partitions, Partition{Index: id.Index, Attempt: id.Attempt})
	}
	slices.SortFunc(has.Held, func(a, b HeldPartitions) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Dataset, b.Dataset))
	})
	for _, h := range has.Held {
		slices.SortFunc(h.Partitions, func(a, b Partition) int {
			return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Attempt, b.Attempt))
		})
	}
	return has, nil
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Attempt, b.Attempt))
}

// Drain lets what runs finish, until ctx ends. From its call on, no task is
// started any more: a Start is reported as Failed with CauseCanceled, for it is
// nobody's fault. Partitions are served still.
func (m *TaskManager) Drain(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.draining = true
	for len(m.tasks) > 0 {
		idle := m.idle
		m.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			m.mu.Lock()
			return context.Cause(ctx)
		}
		m.mu.Lock()
	}
	return nil
}
