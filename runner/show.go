package runner

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"trestle/element"
	"trestle/raftmeta/catalog"
)

// Jobs are all jobs, running and ended, the oldest first.
func (b *Board) Jobs() []Summary {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := b.state.Jobs()
	out := make([]Summary, len(all))
	for i, j := range all {
		out[i] = summary(j, b.live[j.ID])
	}
	return out
}

// TaskManagers are the names of those that run tasks or hold partitions, as
// far as the log knows.
func (b *Board) TaskManagers() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return expected(b.state)
}

// Job shows one job. Large jobs make large answers: ask when asked.
func (b *Board) Job(id string) (*Job, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	j := b.state.Job(catalog.JobID(id))
	if j == nil {
		return nil, fmt.Errorf("show job %q: %w", id, ErrUnknownJob)
	}
	l := b.live[j.ID]
	out := &Job{
		Summary: summary(j, l), Pipeline: string(j.Pipeline), Plan: string(j.Plan),
		Graph: j.Graph, Restart: j.Restart,
	}
	for at := range j.Stages {
		out.Stages = append(out.Stages, stage(j, l, at))
	}
	for at := range j.Regions {
		out.Regions = append(out.Regions, region(j, at, out.Stages))
	}
	for _, f := range j.Failures {
		out.Failures = append(out.Failures, shownFailure(f))
	}
	if j.Failure != nil {
		out.Failures = append(out.Failures, shownFailure(*j.Failure))
	}
	return out, nil
}

func shownFailure(f catalog.Failure) Failure {
	return Failure{
		At: f.At.Time(), Kind: string(f.Kind), Stage: f.Task.Stage, Index: f.Task.Index, Attempt: f.Task.Attempt,
		TaskManager: f.TaskManager, Message: f.Message,
	}
}

func summary(j *catalog.Job, l *live) Summary {
	s := Summary{
		ID: string(j.ID), Name: j.Name, State: l.statuses[len(l.statuses)-1].State,
		Accepted: j.Accepted.Time(), Started: l.started, Ended: j.Ended.Time(),
		Priority: j.Priority, Restarts: j.Restarts, Options: j.Options,
	}
	if j.Failure != nil {
		s.Error = j.Failure.Message
	}
	for _, st := range j.Stages {
		s.Tasks.Finished += st.Finished
		s.Tasks.Waiting += st.Parallelism - st.Finished
	}
	s.Tasks.Running = len(l.running)
	s.Tasks.Waiting -= s.Tasks.Running
	if j.State.Terminal() {
		s.Tasks.Waiting, s.Tasks.Stopped = 0, s.Tasks.Waiting
	}
	return s
}

func stage(j *catalog.Job, l *live, at int) Stage {
	spec, st := j.Graph.Stages[at], j.Stages[at]
	out := Stage{
		ID: spec.ID, Name: spec.Name, Environment: spec.Environment, Root: spec.Root,
		Region: j.Graph.Regions[j.RegionOf(at)].ID, State: Waiting,
		Parallelism: st.Parallelism, ChosenFrom: st.InputBytes,
	}
	for i := range st.Tasks {
		t := shownTask(l, st, i)
		if t.State != Waiting {
			out.State = Running
		}
		out.InBytes += t.InBytes
		out.OutBytes += t.OutBytes
		out.InElements += t.InElements
		out.OutElements += t.OutElements
		out.Watermarks = least(out.Watermarks, t.Watermarks)
		out.Started = earlier(out.Started, t.Started)
		if t.Ended.After(out.Ended) {
			out.Ended = t.Ended
		}
		out.Tasks = append(out.Tasks, t)
	}
	if out.Watermarks != nil && slices.ContainsFunc(out.Tasks, silent) {
		out.Watermarks = &Watermarks{Input: Watermark(element.MinTimestamp), Output: Watermark(element.MinTimestamp)}
	}
	switch {
	case st.Complete():
		out.State = Finished
	case j.State.Terminal():
		out.halt(j)
	default:
		out.Ended = time.Time{}
	}
	return out
}

// silent reports whether a task has still to say how far it is.
func silent(t Task) bool { return t.State != Finished && t.Watermarks == nil }

// least is how far both are; nil says nothing.
func least(a, b *Watermarks) *Watermarks {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return &Watermarks{Input: min(a.Input, b.Input), Output: min(a.Output, b.Output)}
}

// halt shows a stage that its job's end has stopped.
func (s *Stage) halt(j *catalog.Job) {
	s.State, s.Ended = Stopped, time.Time{}
	if !s.Started.IsZero() {
		s.Ended = j.Ended.Time()
	}
	failed := -1
	if f := j.Failure; f != nil && f.Task.Stage == s.ID {
		s.State, failed = Failed, f.Task.Index
		if s.Started.IsZero() {
			s.Ended = f.At.Time()
		}
	}
	for i := range s.Tasks {
		switch t := &s.Tasks[i]; {
		case t.State == Finished:
		case i == failed:
			t.State = Failed
		default:
			t.State = Stopped
		}
	}
}

// earlier is the earlier of the two that has come.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func shownTask(l *live, st *catalog.Stage, index int) Task {
	t := &st.Tasks[index]
	out := Task{Index: index, Attempt: t.Attempt, State: Waiting, Failures: t.Failures + t.Losses}
	if d := t.Done; d != nil {
		out.State, out.TaskManager, out.Slot = Finished, d.TaskManager, d.Slot
		out.Started, out.Ended = d.Started.Time(), d.Ended.Time()
		out.Amounts = Amounts{InBytes: d.InBytes, OutBytes: d.OutBytes, InElements: d.InElements, OutElements: d.OutElements}
		if len(d.Outputs) > 0 {
			out.Durable = string(d.Outputs[0].Durable)
		}
		return out
	}
	if r := l.running[catalog.TaskID{Stage: st.Stage, Index: index, Attempt: t.Attempt}]; r != nil {
		out.State, out.TaskManager, out.Slot, out.Started, out.Amounts = Running, r.manager, r.slot, r.started, r.Amounts
		out.Watermarks = r.watermarks
	}
	return out
}

// region is shown from its stages, which were shown before.
func region(j *catalog.Job, at int, stages []Stage) Region {
	spec, r := j.Graph.Regions[at], j.Regions[at]
	out := Region{ID: spec.ID, State: Running, Stages: spec.Stages, Decided: r.Chosen.Time(), Slots: r.Slots, Why: r.Why}
	count := map[Progress]int{}
	for _, id := range spec.Stages {
		count[stages[j.StageAt(id)].State]++
	}
	switch {
	case count[Failed] > 0:
		out.State = Failed
	case count[Stopped] > 0:
		out.State = Stopped
	case count[Finished] == len(spec.Stages):
		out.State = Finished
	case count[Waiting] == len(spec.Stages):
		out.State = Waiting
	}
	return out
}

// Metrics are the encoded metrics of a job's tasks: those that have finished,
// and, where the job is led, the latest that running ones have reported. They
// are read only.
func (b *Board) Metrics(id string) ([]TaskMetrics, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	j := b.state.Job(catalog.JobID(id))
	if j == nil {
		return nil, fmt.Errorf("metrics of job %q: %w", id, ErrUnknownJob)
	}
	var out []TaskMetrics
	for _, st := range j.Stages {
		for i := range st.Tasks {
			t := &st.Tasks[i]
			m := TaskMetrics{Stage: st.Stage, Index: i, Attempt: t.Attempt}
			if t.Done != nil {
				m.Finished, m.Set = true, t.Done.Metrics
			} else if r := b.live[j.ID].running[catalog.TaskID{Stage: st.Stage, Index: i, Attempt: t.Attempt}]; r != nil {
				m.Set = r.metrics
			}
			if len(m.Set) > 0 {
				out = append(out, m)
			}
		}
	}
	return out, nil
}
