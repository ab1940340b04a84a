package runner

import (
	"context"
	"fmt"

	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
	"trestle/runner/task"
)

// commitAll makes decisions durable, in order, and then does what they want.
// What was decided while one batch was being written goes into the next
// together.
func (d *Dispatcher) commitAll(ctx context.Context, sources *binder) error {
	managers := map[string]TaskManager{} // for look-ups; a lost one is called in vain
	for {
		var todo []batch
		select {
		case b := <-d.commits:
			todo = append(todo, b)
		case <-ctx.Done():
			return errEnded
		}
		for len(d.commits) > 0 { // nobody else takes from it
			todo = append(todo, <-d.commits)
		}
		if err := d.commit(ctx, todo, managers, sources); err != nil {
			return err
		}
	}
}

func (d *Dispatcher) commit(ctx context.Context, todo []batch, managers map[string]TaskManager, sources *binder) error {
	var records []catalog.Record
	for _, b := range todo {
		records = append(records, b.records...)
	}
	if len(records) > 0 {
		if err := d.journal.Append(ctx, records...); err != nil {
			if ctx.Err() != nil {
				return errEnded
			}
			return fmt.Errorf("the JobManager stops: %w", err)
		}
	}
	for _, b := range todo {
		d.board.launched(b.actions)
		for _, tm := range b.joins {
			managers[tm.Name()] = tm
		}
		for _, a := range b.actions {
			switch a := a.(type) {
			case schedule.Bind:
				sources.bind(ctx, a)
			case schedule.ReleaseJob:
				sources.forget(a.Job)
				d.do(a, managers)
			default:
				d.do(a, managers)
			}
		}
		for _, tm := range b.idle {
			tm.MayLeave()
		}
		for _, reply := range b.replies {
			if reply.to != nil {
				reply.to <- reply.err
			}
		}
	}
	return nil
}

func (d *Dispatcher) do(a schedule.Action, managers map[string]TaskManager) {
	switch a := a.(type) {
	case schedule.Start:
		if tm := managers[a.TaskManager]; tm != nil {
			tm.Start(column(a))
		}
	case schedule.Cancel:
		if tm := managers[a.TaskManager]; tm != nil {
			ids := make([]task.ID, len(a.Tasks))
			for i, t := range a.Tasks {
				ids[i] = fullID(a.Job, t)
			}
			tm.Cancel(ids)
		}
	case schedule.DrainJob:
		if tm := managers[a.TaskManager]; tm != nil {
			tm.DrainJob(string(a.Job))
		}
	case schedule.Release:
		if tm := managers[a.TaskManager]; tm != nil {
			tm.Release(string(a.Job), a.Dataset, a.Partitions)
		}
	case schedule.ReleaseJob:
		for _, tm := range managers {
			tm.ReleaseJob(string(a.Job))
		}
	}
}

func fullID(job catalog.JobID, t catalog.TaskID) task.ID {
	return task.ID{Job: string(job), Stage: t.Stage, Index: t.Index, Attempt: t.Attempt}
}

// column makes the specs of a Start.
func column(a schedule.Start) []task.Spec {
	specs := make([]task.Spec, len(a.Tasks))
	for i, t := range a.Tasks {
		specs[i] = task.Spec{
			ID: fullID(a.Job, t.ID), Plan: string(a.Plan), Parallelism: t.Parallelism,
			Slot: a.Slot, Queue: t.Queue, QueueAt: t.QueueAt, KeyGroups: t.KeyGroups,
			Inputs: inputs(t.Inputs), SideInputs: inputs(t.SideInputs), Impulse: t.Impulse,
		}
		for _, o := range t.Outputs {
			specs[i].Outputs = append(specs[i].Outputs, task.Output{Dataset: o.Dataset, Subpartitions: o.Subpartitions})
		}
	}
	return specs
}

func inputs(from []schedule.Input) []task.Input {
	to := make([]task.Input, len(from))
	for i, in := range from {
		to[i] = task.Input{Dataset: in.Dataset, Partitions: in.Partitions, At: in.At, Lo: in.Lo, Hi: in.Hi}
	}
	return to
}
