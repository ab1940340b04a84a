package graph

// A PipelineError names the part of a submitted pipeline that the runner cannot
// accept. The job service answers it with codes.InvalidArgument.
type PipelineError struct {
	Where string // as its author knows it: transform "Dedup" (e4)
	What  string // what is wrong, and what would be right
}

func (e *PipelineError) Error() string { return e.Where + ": " + e.What }
