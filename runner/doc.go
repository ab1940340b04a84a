// Package runner drives jobs from their submission to their end.
//
// The Dispatcher is the JobManager's loop. Whatever happens (a submission, a
// task's report, a lost TaskManager, a passing deadline) becomes an event;
// package schedule says which decisions follow; the decisions go to the
// journal; and only when they are durable are they acted on and shown. So
// whatever dies at whatever moment, nothing that was seen outside is
// forgotten, and a Dispatcher that starts on the same journal goes on where
// the last one stopped.
//
// The loop waits for nothing but the next event: while one batch of decisions
// is being made durable the next is decided, on the state as it will be. If
// the journal refuses a batch, the Dispatcher stops with that error; it never
// goes on with a state that the journal doesn't have.
//
// Running tasks is the work of TaskManagers, whose contract is stated here.
// Planning a pipeline comes before: a Submission holds a finished plan.
package runner
