package schedule

import (
	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// checkFreed checks that nothing is kept that nobody will read.
func (s *sim) checkFreed() {
	for k, at := range s.held {
		j := s.world.state.Job(k.job)
		if j.State == catalog.Cancelling {
			continue // until its last task has stopped
		}
		s.must(!j.State.Terminal(), "%v is kept of a job that is %s", k, j.State)
		d := j.Dataset(k.dataset)
		t := task(j, catalog.TaskID{Stage: d.Producer, Index: k.Index})
		if at == "" && (t == nil || t.Attempt != k.Attempt) {
			continue // no TaskManager tells a new leader of it: it goes with its job
		}
		s.must(t != nil && t.Attempt == k.Attempt, "%v is kept of an attempt that was given up", k)
		wanted := !j.Stages[j.StageAt(d.Producer)].Complete()
		for _, consumer := range d.Consumers {
			wanted = wanted || !j.Stages[j.StageAt(consumer)].Complete() || d.Exchange == jobgraph.Blocking && !regionComplete(j, j.RegionOf(j.StageAt(consumer)))
		}
		s.must(wanted, "%v is kept, and all have read it", k)
	}
}

// check looks at the whole when all is over.
func (s *sim) check() {
	s.must(s.shadow.Hash() == s.world.state.Hash(), "the journal tells another story:\n%s\n%s", s.shadow, s.world.state)
	s.must(len(s.held) == 0, "partitions are left: %v", s.held)
	for _, j := range s.world.state.Jobs() {
		if s.stopped[j.ID] && j.State == catalog.Cancelled {
			continue
		}
		s.must(j.State == catalog.Done, "job %s is %s", j.ID, j.State)
		for i, st := range j.Stages {
			for index := range st.Tasks {
				id := catalog.TaskID{Stage: st.Stage, Index: index, Attempt: st.Tasks[index].Attempt}
				s.must(s.finished[runKey{j.ID, id}], "%s counts as done, but never ended", id)
				s.must(s.faults || id.Attempt == 0, "%s ran again without need", id)
			}
			s.checkReads(j, i)
		}
	}
}

// checkReads checks that the stage has read each of its inputs exactly once,
// as the last attempts of its producers wrote it.
func (s *sim) checkReads(j *catalog.Job, stage int) {
	spec, st := j.Graph.Stages[stage], j.Stages[stage]
	for _, id := range spec.Inputs {
		d := j.Dataset(id)
		times := map[[2]int]int{} // partition, sub-partition
		subs := 1
		for index := range st.Tasks {
			key := runKey{j.ID, catalog.TaskID{Stage: st.Stage, Index: index, Attempt: st.Tasks[index].Attempt}}
			for _, in := range s.read[key] {
				if in.Dataset != id {
					continue
				}
				for _, p := range in.Partitions {
					want := task(j, catalog.TaskID{Stage: d.Producer, Index: p.Index}).Attempt
					s.must(p.Attempt == want, "%v has read %s/%d#%d, but #%d counts", key, id, p.Index, p.Attempt, want)
					for sub := in.Lo; sub < in.Hi; sub++ {
						times[[2]int{p.Index, sub}]++
					}
				}
				subs = max(subs, in.Hi)
			}
		}
		want := 1
		if spec.Root == jobgraph.RootRestrictions {
			want = len(st.Tasks) // they share one queue
		}
		for p := range j.Stages[j.StageAt(d.Producer)].Tasks {
			for sub := range subs {
				s.must(times[[2]int{p, sub}] == want, "sub-partition %d of %s/%d was read %d times by %s, not %d", sub, id, p, times[[2]int{p, sub}], st.Stage, want)
			}
		}
	}
}

// checkQueue checks that the tasks of a stage are told of one queue, which is
// there, which it tells, or begins with them.
func (s *sim) checkQueue(a Start, t TaskSpec) (there bool) {
	if s.jobs[a.Job].Stage(t.ID.Stage).Root != jobgraph.RootRestrictions {
		s.must(t.QueueAt == "", "%s has no queue", t.ID)
		return false
	}
	s.must(s.managers[t.QueueAt] != nil, "%s: %s keeps the queue, and is gone", t.ID, t.QueueAt)
	q := HeldQueue{a.Job, t.ID.Stage, t.Queue}
	if at, there := s.queues[q]; there {
		s.must(at == t.QueueAt, "%s is told of a queue at %s, others of one at %s", t.ID, t.QueueAt, at)
		return true
	}
	s.must(t.QueueAt == a.TaskManager, "%s is the first, and is told of a queue at %s", t.ID, t.QueueAt)
	for _, st := range s.world.state.Job(a.Job).Stages {
		s.must(st.Stage != t.ID.Stage || st.Finished == 0, "%s begins a queue, and others have finished", t.ID)
	}
	s.queues[q] = t.QueueAt
	return false
}
