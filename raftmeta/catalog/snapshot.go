package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"trestle/internal/invariant"
)

// tasksPerRecord bounds the TasksRestored records of a snapshot.
const tasksPerRecord = 256

// Snapshot yields the shortest records that fold to this state. They share
// memory with it: they must be used before the next Apply.
func (s *State) Snapshot() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, m := range s.managers {
			if !yield(&TaskManagerJoined{Name: m.Name, At: m.Joined, Slots: m.Slots}) {
				return
			}
		}
		for _, j := range s.order {
			if !yield(&JobRestored{State: j}) {
				return
			}
			for _, st := range j.Stages {
				for from := 0; from < len(st.Tasks); from += tasksPerRecord {
					tasks := st.Tasks[from:min(from+tasksPerRecord, len(st.Tasks))]
					if !yield(&TasksRestored{Job: j.ID, Stage: st.Stage, From: from, Tasks: tasks}) {
						return
					}
				}
			}
		}
	}
}

// Hash is equal for equal states and, as far as SHA-256 goes, no others.
func (s *State) Hash() Hash {
	h := sha256.New()
	for r := range s.Snapshot() {
		body, err := json.Marshal(r)
		invariant.Check(err == nil, "state can't be encoded: %v", err)
		h.Write(body)
		h.Write([]byte{'\n'})
	}
	return Hash(hex.EncodeToString(h.Sum(nil)))
}

func (s *State) restore(r *JobRestored) error {
	if s.jobs[r.State.ID] != nil {
		return fmt.Errorf("the job is there")
	}
	index, err := indexGraph(r.State.Graph)
	if err != nil {
		return err
	}
	j := *r.State // records are shared and never changed; jobs are
	j.index, j.finished, j.metricsBytes = index, 0, 0
	if len(j.Stages) != len(j.Graph.Stages) || len(j.Regions) != len(j.Graph.Regions) {
		return fmt.Errorf("its stages are not those of its graph")
	}
	j.Failures, j.FailureTimes = slices.Clone(j.Failures), slices.Clone(j.FailureTimes)
	j.Stages, j.Regions = slices.Clone(j.Stages), slices.Clone(j.Regions)
	for i, st := range j.Stages {
		if st == nil || st.Stage != j.Graph.Stages[i].ID || st.Parallelism < 0 || st.Parallelism > MaxParallelism {
			return fmt.Errorf("its stage %d is not that of its graph", i)
		}
		if st.Parallelism > 0 {
			if err := checkChoice(j.Graph.Stages[i], &st.StageChoice); err != nil {
				return err
			}
		}
		j.metricsBytes += int64(len(st.Bounds))
		j.Stages[i] = &Stage{StageChoice: st.StageChoice, Queue: st.Queue, Bounds: st.Bounds, Tasks: make([]Task, st.Parallelism)}
	}
	for i, g := range j.Regions {
		if g == nil {
			return fmt.Errorf("its region %d is missing", i)
		}
		c := *g
		j.Regions[i] = &c
	}
	s.add(&j)
	return nil
}

func (s *State) restoreTasks(r *TasksRestored) error {
	j := s.jobs[r.Job]
	if j == nil {
		return fmt.Errorf("there is no job %s", r.Job)
	}
	at := j.StageAt(r.Stage)
	if at < 0 || r.From < 0 || r.From+len(r.Tasks) > len(j.Stages[at].Tasks) {
		return fmt.Errorf("there are no such tasks")
	}
	st := j.Stages[at]
	for i, t := range r.Tasks {
		into := &st.Tasks[r.From+i]
		if into.Done != nil {
			return fmt.Errorf("task %d is there", r.From+i)
		}
		if t.Done != nil && len(t.Done.Outputs) != len(st.Outputs) {
			return fmt.Errorf("task %d has the wrong outputs", r.From+i)
		}
	}
	wasComplete := st.Complete()
	for i, t := range r.Tasks {
		st.Tasks[r.From+i] = t
		if t.Done != nil {
			st.Finished++
			j.metricsBytes += int64(len(t.Done.Metrics))
		}
	}
	if st.Complete() && !wasComplete {
		j.finished++
	}
	return nil
}

// String prints the state for people and tests: a line for each job and stage.
func (s *State) String() string {
	var b strings.Builder
	for _, j := range s.order {
		fmt.Fprintf(&b, "job %s %q %s", j.ID, j.Name, j.State)
		if j.Restarts > 0 {
			fmt.Fprintf(&b, " restarts=%d", j.Restarts)
		}
		if j.Failure != nil {
			fmt.Fprintf(&b, ": %s", j.Failure)
		}
		b.WriteByte('\n')
		for i, st := range j.Stages {
			fmt.Fprintf(&b, "  %s %s", j.Graph.Regions[j.RegionOf(i)].ID, st)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// String prints the stage's tasks, equal neighbours together: s2 1 of 3: 0#1
// done, 1-2#0.
func (s *Stage) String() string {
	if s.Parallelism == 0 {
		return string(s.Stage) + " undecided"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d of %d:", s.Stage, s.Finished, s.Parallelism)
	for lo := 0; lo < len(s.Tasks); {
		t := s.Tasks[lo]
		hi := lo + 1
		for hi < len(s.Tasks) && s.Tasks[hi].Attempt == t.Attempt && s.Tasks[hi].Second == t.Second && (s.Tasks[hi].Done != nil) == (t.Done != nil) {
			hi++
		}
		if lo > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %d", lo)
		if hi > lo+1 {
			fmt.Fprintf(&b, "-%d", hi-1)
		}
		fmt.Fprintf(&b, "#%d", t.Attempt)
		if t.Second > t.Attempt {
			fmt.Fprintf(&b, "+%d", t.Second)
		}
		if t.Done != nil {
			b.WriteString(" done")
		}
		lo = hi
	}
	return b.String()
}
