package task

import (
	"cmp"
	"context"
	"slices"
)

// offer notes that other TaskManagers may ask for the queue of the spec's stage.
// That they don't make it by asking is what keeps a TaskManager that was started
// again from beginning a generation anew: it is told to start a task of it first,
// by who knows that it was gone. The lock is held.
func (m *TaskManager) offer(spec Spec) {
	k := queueKey{spec.Job, spec.Stage, spec.Queue}
	if spec.QueueAt != m.cfg.Name || m.cfg.Peer == nil {
		return
	}
	if _, ok := m.offers[k]; ok {
		return
	}
	m.offers[k] = spec
	close(m.offered)
	m.offered = make(chan struct{})
}

// offeredQueue waits for a queue that this TaskManager is to keep.
func (m *TaskManager) offeredQueue(ctx context.Context, k queueKey) (*queue, error) {
	for {
		m.mu.Lock()
		q := m.queues[k]
		spec, ok := m.offers[k]
		offered := m.offered
		m.mu.Unlock()
		if q != nil {
			return q, nil
		}
		if ok {
			return m.queue(spec), nil
		}
		select {
		case <-offered:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// heldQueues are those that are kept here. The lock is held.
func (m *TaskManager) heldQueues() []HeldQueue {
	var all []HeldQueue
	for k := range m.queues {
		all = append(all, HeldQueue{Job: k.job, Stage: k.stage, Generation: k.generation})
	}
	for k := range m.offers {
		if m.queues[k] == nil {
			all = append(all, HeldQueue{Job: k.job, Stage: k.stage, Generation: k.generation})
		}
	}
	slices.SortFunc(all, func(a, b HeldQueue) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Generation, b.Generation))
	})
	return all
}
