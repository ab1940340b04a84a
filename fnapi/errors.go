package fnapi

import (
	"errors"
	"fmt"
)

// Errors that a caller may want to tell apart.
var (
	// ErrClosed is why a worker is lost that was withdrawn with Close, or whose
	// server has ended.
	ErrClosed = errors.New("withdrawn by the runner")
	// ErrAborted is the end of a bundle that was aborted without a reason.
	ErrAborted = errors.New("bundle aborted")
	// ErrNoStatus is the answer of Status while the worker has no status stream.
	ErrNoStatus = errors.New("the worker offers no status")
)

// A UserError is an instruction that the SDK answered with an error: as a rule
// the user's code raised, and Text has the SDK's words and stack trace.
type UserError struct {
	Worker      string
	Instruction string
	Text        string
}

func (e *UserError) Error() string {
	return fmt.Sprintf("instruction %s on worker %s: %s", e.Instruction, e.Worker, e.Text)
}

// A WorkerLostError is an instruction that can have no answer any more, since
// the worker's control stream, or the data stream that the bundle used, has
// ended.
type WorkerLostError struct {
	Worker string
	Cause  error
}

func (e *WorkerLostError) Error() string {
	return fmt.Sprintf("worker %s is lost: %v", e.Worker, e.Cause)
}

func (e *WorkerLostError) Unwrap() error { return e.Cause }

// A ProtocolError is a worker that did what the Fn API does not allow.
type ProtocolError struct {
	Worker      string
	Instruction string
	What        string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("instruction %s on worker %s: protocol violated: %s", e.Instruction, e.Worker, e.What)
}
