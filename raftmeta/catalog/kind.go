package catalog

import "fmt"

// A kind is a record's type on disk. Numbers are never used again.
type kind uint8

const (
	kindJobAccepted       kind = 1
	kindParallelismChosen kind = 2
	kindTaskFinished      kind = 3
	kindTasksReset        kind = 4
	kindStopRequested     kind = 5
	kindJobEnded          kind = 6
	kindJobForgotten      kind = 7
	kindJobRestored       kind = 8
	kindTasksRestored     kind = 9
	kindTaskManagerJoined kind = 10
	kindTaskManagerLost   kind = 11
	kindTaskDoubled       kind = 12
	kindInputBound        kind = 13
)

func (*JobAccepted) kind() kind       { return kindJobAccepted }
func (*ParallelismChosen) kind() kind { return kindParallelismChosen }
func (*TaskFinished) kind() kind      { return kindTaskFinished }
func (*TasksReset) kind() kind        { return kindTasksReset }
func (*StopRequested) kind() kind     { return kindStopRequested }
func (*JobEnded) kind() kind          { return kindJobEnded }
func (*JobForgotten) kind() kind      { return kindJobForgotten }
func (*JobRestored) kind() kind       { return kindJobRestored }
func (*TasksRestored) kind() kind     { return kindTasksRestored }
func (*TaskManagerJoined) kind() kind { return kindTaskManagerJoined }
func (*TaskManagerLost) kind() kind   { return kindTaskManagerLost }
func (*TaskDoubled) kind() kind       { return kindTaskDoubled }
func (*InputBound) kind() kind        { return kindInputBound }

// newRecord returns an empty record of the kind, or nil.
func newRecord(k kind) Record {
	switch k {
	case kindJobAccepted:
		return &JobAccepted{}
	case kindParallelismChosen:
		return &ParallelismChosen{}
	case kindTaskFinished:
		return &TaskFinished{}
	case kindTasksReset:
		return &TasksReset{}
	case kindStopRequested:
		return &StopRequested{}
	case kindJobEnded:
		return &JobEnded{}
	case kindJobForgotten:
		return &JobForgotten{}
	case kindJobRestored:
		return &JobRestored{}
	case kindTasksRestored:
		return &TasksRestored{}
	case kindTaskManagerJoined:
		return &TaskManagerJoined{}
	case kindTaskManagerLost:
		return &TaskManagerLost{}
	case kindTaskDoubled:
		return &TaskDoubled{}
	case kindInputBound:
		return &InputBound{}
	}
	return nil
}

func ranges(rs []TaskRange) string {
	s := ""
	for i, r := range rs {
		if i > 0 {
			s += " "
		}
		if r.Hi == r.Lo+1 {
			s += fmt.Sprintf("%s[%d]", r.Stage, r.Lo)
		} else {
			s += fmt.Sprintf("%s[%d,%d)", r.Stage, r.Lo, r.Hi)
		}
	}
	return s
}

func (r *JobAccepted) String() string {
	return fmt.Sprintf("accept %s %q plan=%.12s", r.Job, r.Name, r.Plan)
}

func (r *ParallelismChosen) String() string {
	s := fmt.Sprintf("choose %s %s", r.Job, r.Region)
	for _, c := range r.Stages {
		s += fmt.Sprintf(" %s=%d", c.Stage, c.Parallelism)
	}
	return s
}

func (r *TaskFinished) String() string {
	s := fmt.Sprintf("finish %s %s", r.Job, r.Task)
	for _, o := range r.Outputs {
		s += fmt.Sprintf(" %s=%dB", o.Dataset, o.Bytes)
		if o.Durable != "" {
			s += "/" + string(o.Durable)
		}
	}
	return s
}

func (r *TasksReset) String() string {
	s := fmt.Sprintf("reset %s %s", r.Job, ranges(r.Tasks))
	if len(r.Blamed) > 0 {
		s += " blame " + ranges(r.Blamed)
	}
	for _, q := range r.Queues {
		s += fmt.Sprintf(" queue %s", q)
	}
	if r.Delay > 0 {
		s += fmt.Sprintf(" wait %v", r.Delay)
	}
	return s + ": " + r.Failure.String()
}

func (f *Failure) String() string {
	s := string(f.Kind)
	if f.Task.Stage != "" {
		s += " " + f.Task.String()
	}
	if f.TaskManager != "" {
		s += " on " + f.TaskManager
	}
	return s + ": " + f.Message
}

func (r *StopRequested) String() string { return fmt.Sprintf("stop %s %s", r.Job, r.Mode) }

func (r *JobEnded) String() string {
	s := fmt.Sprintf("end %s %s", r.Job, r.State)
	if r.Failure != nil {
		s += ": " + r.Failure.String()
	}
	return s
}

func (r *JobForgotten) String() string { return fmt.Sprintf("forget %s", r.Job) }
func (r *JobRestored) String() string  { return fmt.Sprintf("restore %s", r.State.ID) }

func (r *TasksRestored) String() string {
	return fmt.Sprintf("restore %s %s[%d,%d)", r.Job, r.Stage, r.From, r.From+len(r.Tasks))
}

func (r *TaskManagerJoined) String() string { return fmt.Sprintf("join %s slots=%d", r.Name, r.Slots) }
func (r *TaskManagerLost) String() string   { return "lose " + r.Name }

func (r *TaskDoubled) String() string { return fmt.Sprintf("double %s %s", r.Job, r.Task) }

func (r *InputBound) String() string {
	return fmt.Sprintf("bind %s %s: %d bytes", r.Job, r.Stage, len(r.Bounds))
}
