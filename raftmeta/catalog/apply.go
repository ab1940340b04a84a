package catalog

import (
	"fmt"
	"slices"

	"trestle/internal/invariant"
	"trestle/runner/jobgraph"
)

// MaxParallelism bounds the tasks of one stage.
const MaxParallelism = 1 << 17

// Apply folds one record in. An error means that the record doesn't fit and
// that nothing has changed; equal states give equal errors.
func (s *State) Apply(r Record) error {
	if err := s.apply(r); err != nil {
		return fmt.Errorf("record %q has no effect: %w", r.String(), err)
	}
	s.applied++
	return nil
}

func (s *State) apply(r Record) error {
	switch r := r.(type) {
	case *JobAccepted:
		return s.accept(r)
	case *JobRestored:
		return s.restore(r)
	case *TasksRestored:
		return s.restoreTasks(r)
	case *JobForgotten:
		return s.forget(r)
	case *TaskManagerJoined:
		return s.join(r)
	case *TaskManagerLost:
		return s.lose(r)
	}
	j := s.jobs[r.JobID()]
	if j == nil {
		return fmt.Errorf("there is no job %s", r.JobID())
	}
	if j.State.Terminal() {
		return fmt.Errorf("the job is %s", j.State)
	}
	var err error
	switch r := r.(type) {
	case *ParallelismChosen:
		err = j.choose(r)
	case *TaskFinished:
		err = j.finish(r)
	case *TasksReset:
		err = j.reset(r)
	case *TaskDoubled:
		err = j.double(r)
	case *InputBound:
		err = j.bind(r)
	case *StopRequested:
		err = j.stop(r)
	case *JobEnded:
		err = j.end(r)
	}
	if err == nil && j.State.Terminal() {
		s.active = slices.DeleteFunc(s.active, func(a *Job) bool { return a == j })
	}
	return err
}

func (s *State) accept(r *JobAccepted) error {
	if s.jobs[r.Job] != nil {
		return fmt.Errorf("the job was accepted before")
	}
	index, err := r.check()
	if err != nil {
		return err
	}
	j := &Job{
		ID: r.Job, Name: r.Name, Accepted: r.At, Options: r.Options, Pipeline: r.Pipeline, Plan: r.Plan,
		Graph: r.Graph, Priority: r.Priority, KeyGroups: r.KeyGroups, Restart: r.Restart, MaxParallelism: r.MaxParallelism,
		State: Running, index: index,
		Stages: make([]*Stage, len(r.Graph.Stages)), Regions: make([]*Region, len(r.Graph.Regions)),
	}
	for i, st := range r.Graph.Stages {
		j.Stages[i] = &Stage{StageChoice: StageChoice{Stage: st.ID}}
	}
	for i := range j.Regions {
		j.Regions[i] = &Region{}
	}
	if len(j.Stages) == 0 {
		j.conclude(Done, r.At, nil) // there is nothing to do
	}
	s.add(j)
	return nil
}

// Check tells whether a state without the job would take the record.
func (r *JobAccepted) Check() error {
	_, err := r.check()
	return err
}

func (r *JobAccepted) check() (*graphIndex, error) {
	if r.Job == "" {
		return nil, fmt.Errorf("it has no id")
	}
	if r.KeyGroups < 1 {
		return nil, fmt.Errorf("it has %d key groups", r.KeyGroups)
	}
	if r.MaxParallelism < 0 {
		return nil, fmt.Errorf("its stages may have %d tasks", r.MaxParallelism)
	}
	return indexGraph(r.Graph)
}

func (s *State) add(j *Job) {
	s.jobs[j.ID] = j
	s.order = append(s.order, j)
	if !j.State.Terminal() {
		s.active = append(s.active, j)
	}
}

func (s *State) forget(r *JobForgotten) error {
	j := s.jobs[r.Job]
	if j == nil || !j.State.Terminal() {
		return fmt.Errorf("there is no ended job %s", r.Job)
	}
	delete(s.jobs, r.Job)
	s.order = slices.DeleteFunc(s.order, func(o *Job) bool { return o == j })
	return nil
}

func (s *State) join(r *TaskManagerJoined) error {
	if r.Name == "" {
		return fmt.Errorf("the TaskManager has no name")
	}
	at, there := s.managerAt(r.Name)
	if !there {
		s.managers = slices.Insert(s.managers, at, TaskManager{})
	}
	s.managers[at] = TaskManager{Name: r.Name, Joined: r.At, Slots: r.Slots}
	return nil
}

func (s *State) lose(r *TaskManagerLost) error {
	at, there := s.managerAt(r.Name)
	if !there {
		return fmt.Errorf("there is no TaskManager %s", r.Name)
	}
	s.managers = slices.Delete(s.managers, at, at+1)
	return nil
}

func (j *Job) choose(r *ParallelismChosen) error {
	at, ok := j.index.regions[r.Region]
	if !ok {
		return fmt.Errorf("there is no region %s", r.Region)
	}
	stages := j.Graph.Regions[at].Stages
	if len(stages) != len(r.Stages) {
		return fmt.Errorf("region %s has %d stages, not %d", r.Region, len(stages), len(r.Stages))
	}
	for i, c := range r.Stages {
		if c.Stage != stages[i] {
			return fmt.Errorf("stage %d of region %s is %s, not %s", i, r.Region, stages[i], c.Stage)
		}
		st := j.Stages[j.index.stages[c.Stage]]
		if st.Finished > 0 {
			return fmt.Errorf("tasks of stage %s have finished", c.Stage)
		}
		if err := checkChoice(j.Graph.Stages[j.index.stages[c.Stage]], &c); err != nil {
			return err
		}
	}
	again := false
	for _, c := range r.Stages {
		st := j.Stages[j.index.stages[c.Stage]]
		again = again || st.Parallelism > 0
		st.choose(c)
	}
	if again {
		j.unchooseReaders(at)
	}
	j.Regions[at].Chosen, j.Regions[at].Slots, j.Regions[at].Why = r.At, r.Slots, r.Why
	return nil
}

// unchooseReaders lets the regions that read from this one be chosen again:
// how they share its partitions was said of other partitions.
func (j *Job) unchooseReaders(region int) {
	for _, id := range j.Graph.Regions[region].Stages {
		for _, out := range j.Graph.Stages[j.index.stages[id]].Outputs {
			for _, consumer := range j.Dataset(out).Consumers {
				if r := j.index.regionOf[j.index.stages[consumer]]; r != region {
					j.Regions[r].Chosen = 0
				}
			}
		}
	}
}

func checkChoice(st *jobgraph.Stage, c *StageChoice) error {
	if c.Parallelism < 1 || c.Parallelism > MaxParallelism {
		return fmt.Errorf("stage %s can't have %d tasks", st.ID, c.Parallelism)
	}
	if len(c.Inputs) != len(st.Inputs) || len(c.Outputs) != len(st.Outputs) {
		return fmt.Errorf("the choice for stage %s doesn't name its inputs and outputs", st.ID)
	}
	for i, in := range c.Inputs {
		if in.Dataset != st.Inputs[i] {
			return fmt.Errorf("input %d of stage %s is %s, not %s", i, st.ID, st.Inputs[i], in.Dataset)
		}
		cut := in.Reading == ReadRange || in.Reading == ReadPointwise
		if cut && (len(in.Cuts) != c.Parallelism+1 || !slices.IsSorted(in.Cuts) || in.Cuts[0] < 0) {
			return fmt.Errorf("the cuts of input %s of stage %s don't make %d parts", in.Dataset, st.ID, c.Parallelism)
		}
	}
	for i, out := range c.Outputs {
		if out.Dataset != st.Outputs[i] || out.Subpartitions < 1 {
			return fmt.Errorf("output %d of stage %s: %s in %d sub-partitions", i, st.ID, out.Dataset, out.Subpartitions)
		}
	}
	return nil
}

// choose fixes the stage's tasks. Attempts go on from where those of an
// earlier choice were: no two tasks ever share an id.
func (s *Stage) choose(c StageChoice) {
	var first uint32
	for i := range s.Tasks {
		first = max(first, s.Tasks[i].next())
	}
	old := s.Tasks
	s.StageChoice = c
	s.Tasks = make([]Task, c.Parallelism)
	for i := range s.Tasks {
		s.Tasks[i].Attempt = first
		if i < len(old) {
			s.Tasks[i].Failures, s.Tasks[i].Losses, s.Tasks[i].NotBefore = old[i].Failures, old[i].Losses, old[i].NotBefore
		}
	}
	if len(old) > 0 {
		s.Queue++
	}
}

// task returns the task, or an error that says why there is none.
func (j *Job) task(id TaskID) (*Stage, *Task, error) {
	at, ok := j.index.stages[id.Stage]
	if !ok {
		return nil, nil, fmt.Errorf("there is no stage %s", id.Stage)
	}
	st := j.Stages[at]
	if id.Index < 0 || id.Index >= len(st.Tasks) {
		return nil, nil, fmt.Errorf("stage %s has %d tasks", id.Stage, len(st.Tasks))
	}
	t := &st.Tasks[id.Index]
	if t.Attempt != id.Attempt && !t.Live(id.Attempt) {
		return nil, nil, fmt.Errorf("the task's attempt is %d", t.Attempt)
	}
	return st, t, nil
}

func (j *Job) double(r *TaskDoubled) error {
	first := r.Task
	first.Attempt--
	_, t, err := j.task(first)
	switch {
	case err != nil:
		return err
	case t.Done != nil:
		return fmt.Errorf("the task has finished")
	case t.Second > 0:
		return fmt.Errorf("the task has a second attempt")
	}
	t.Second = r.Task.Attempt
	return nil
}

func (j *Job) bind(r *InputBound) error {
	at, ok := j.index.stages[r.Stage]
	switch {
	case !ok:
		return fmt.Errorf("there is no stage %s", r.Stage)
	case j.Graph.Stages[at].Bind == "":
		return fmt.Errorf("stage %s has no source", r.Stage)
	case j.Stages[at].Bounds != nil:
		return fmt.Errorf("stage %s was bound before", r.Stage)
	case len(r.Bounds) == 0:
		return fmt.Errorf("no bounds are given")
	}
	j.Stages[at].Bounds = r.Bounds
	j.metricsBytes += int64(len(r.Bounds))
	return nil
}

func (j *Job) finish(r *TaskFinished) error {
	st, t, err := j.task(r.Task)
	if err != nil {
		return err
	}
	if t.Done != nil {
		return fmt.Errorf("the attempt has finished before")
	}
	if len(r.Outputs) != len(st.Outputs) {
		return fmt.Errorf("stage %s has %d outputs, not %d", r.Task.Stage, len(st.Outputs), len(r.Outputs))
	}
	for i, o := range r.Outputs {
		if o.Dataset != st.Outputs[i].Dataset {
			return fmt.Errorf("output %d of stage %s is %s, not %s", i, r.Task.Stage, st.Outputs[i].Dataset, o.Dataset)
		}
	}
	t.Done, t.Attempt = r, r.Task.Attempt
	st.Finished++
	j.metricsBytes += int64(len(r.Metrics))
	if !st.Complete() {
		return nil
	}
	j.finished++
	if j.finished == len(j.Stages) {
		j.conclude(j.natural(), r.Ended, nil)
	}
	return nil
}

// natural is the state in which the job ends when all its work is done.
func (j *Job) natural() JobState {
	switch j.State {
	case Cancelling:
		return Cancelled // as its client was told
	case Draining:
		return Drained
	}
	return Done
}

func (j *Job) reset(r *TasksReset) error {
	for _, rs := range [][]TaskRange{r.Tasks, r.Blamed} {
		for _, x := range rs {
			at, ok := j.index.stages[x.Stage]
			if !ok || x.Lo < 0 || x.Lo >= x.Hi || x.Hi > len(j.Stages[at].Tasks) {
				return fmt.Errorf("there are no tasks %s", ranges([]TaskRange{x}))
			}
		}
	}
	for _, q := range r.Queues {
		if _, ok := j.index.stages[q]; !ok {
			return fmt.Errorf("there is no stage %s", q)
		}
	}
	for _, x := range r.Tasks {
		j.takeBack(x)
	}
	for _, x := range r.Blamed {
		st := j.Stages[j.index.stages[x.Stage]]
		for i := x.Lo; i < x.Hi; i++ {
			st.Tasks[i].blame(r)
		}
	}
	for _, q := range r.Queues {
		j.Stages[j.index.stages[q]].Queue++
	}
	j.noteFailure(r)
	return nil
}

// takeBack gives the tasks new attempts, and forgets that any had finished.
func (j *Job) takeBack(x TaskRange) {
	st := j.Stages[j.index.stages[x.Stage]]
	wasComplete := st.Complete()
	for i := x.Lo; i < x.Hi; i++ {
		t := &st.Tasks[i]
		t.Attempt, t.Second = t.next(), 0
		if t.Done != nil {
			j.metricsBytes -= int64(len(t.Done.Metrics))
			t.Done = nil
			st.Finished--
		}
	}
	if wasComplete && !st.Complete() {
		j.finished--
	}
}

func (t *Task) blame(r *TasksReset) {
	if r.Failure.Kind.Blameless() {
		t.Losses++
	} else {
		t.Failures++
	}
	if r.Delay > 0 {
		t.NotBefore = r.At.Add(r.Delay)
	}
}

func (j *Job) noteFailure(r *TasksReset) {
	j.Restarts++
	if j.Failures = append(j.Failures, r.Failure); len(j.Failures) > maxFailures {
		j.Failures = slices.Delete(j.Failures, 0, 1)
	}
	if r.Failure.Kind.Blameless() {
		return
	}
	j.Delay = r.Delay
	if j.FailureTimes = append(j.FailureTimes, r.At); len(j.FailureTimes) > maxFailureTimes {
		j.FailureTimes = slices.Delete(j.FailureTimes, 0, 1)
	}
}

func (j *Job) stop(r *StopRequested) error {
	switch {
	case r.Mode == StopCancel && j.State != Cancelling:
		j.State = Cancelling
	case r.Mode == StopDrain && j.State == Running:
		j.State = Draining
	default:
		return fmt.Errorf("the job is %s", j.State)
	}
	return nil
}

func (j *Job) end(r *JobEnded) error {
	if !r.State.Terminal() {
		return fmt.Errorf("%s is no end", r.State)
	}
	j.conclude(r.State, r.At, r.Failure)
	return nil
}

// conclude ends the job and lets go of what only a running job needs.
func (j *Job) conclude(state JobState, at Instant, why *Failure) {
	invariant.Check(state.Terminal(), "job %s would end as %s", j.ID, state)
	j.State, j.Ended, j.Failure = state, at, why
	for _, st := range j.Stages {
		for i := range st.Tasks {
			if t := &st.Tasks[i]; t.Done != nil {
				t.Done = t.Done.withoutSketches()
			}
		}
	}
}

// withoutSketches is the record as history needs it. Records are shared and
// never changed, so it is a copy.
func (r *TaskFinished) withoutSketches() *TaskFinished {
	c := *r
	c.Outputs = slices.Clone(r.Outputs)
	for i := range c.Outputs {
		c.Outputs[i].Sketch = nil
	}
	return &c
}
