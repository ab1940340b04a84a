// Package schedule decides what to do next for all jobs.
//
// Decide looks at what is recorded (catalog.State) and at what was seen
// (Seen), and gives the decisions to record and the actions that are wanted.
// It starts a region when its blocking inputs are there, chooses the
// parallelism of its stages from what upstream really wrote, shares slots
// between jobs, tries again what failed, and frees what nobody will read.
//
// Decide is a function of its arguments: it waits for nothing, reads no clock
// and starts nothing. What depends on more than the recorded state (slots at
// hand, configuration, this very code) is written into the records and never
// computed again. Actions are the difference between what is wanted and what
// was seen, so that none is lost when a process dies between a decision and
// its action.
package schedule

import (
	"time"

	"trestle/raftmeta/catalog"
)

// A Policy holds the numbers that decisions depend on. Zero fields mean the
// default.
type Policy struct {
	// TargetBytes is how much blocking input one task should get; default 64 MiB.
	TargetBytes int64
	// LeastBytes is the input below which using one more idle slot is not worth
	// a task; default 1 MiB.
	LeastBytes int64
	// TasksPerSlot bounds a stage's parallelism by the slots; default 32.
	TasksPerSlot int
	// KeyGroups is the number of sub-partitions of ByKey datasets, and so the
	// greatest parallelism of what groups them; default 128.
	KeyGroups int
	// SpreadGroups is the number of sub-partitions of Spread datasets; 0 means four
	// for each slot, between 16 and 256.
	SpreadGroups int
	// Restart is for jobs that say nothing; default two restarts of a task, 250 ms apart.
	Restart catalog.RestartStrategy
	// BoundsBytes bounds what it takes to say what the sources of one job are to be
	// read from and to, all of them together: the log and every leader's memory
	// have it as long as the job is remembered; default 16 MiB.
	BoundsBytes int64
	// Losses bounds how often one task is made again for the fault of others (a
	// lost TaskManager, a corrupt partition); default 16.
	Losses int
	// SlowAfter is how long a task may take whatever others took, before a second
	// attempt of it is started in a slot that is idle; default 2 s, so that what is
	// over in a moment isn't judged by what else its machine had to do in that
	// moment. Less than zero: there are no second attempts.
	SlowAfter time.Duration
	// HistoryJobs, HistoryTasks and HistoryBytes bound the ended jobs that are
	// remembered, by their number, by the number of their tasks, and by the size
	// of those tasks' metrics; defaults 1000, 200,000 and 64 MiB. The job that
	// ended last is remembered whatever its size.
	HistoryJobs  int
	HistoryTasks int
	HistoryBytes int64
}

// WithDefaults is the policy with its zero fields filled in.
func (p Policy) WithDefaults() Policy {
	setDefault(&p.TargetBytes, 64<<20)
	setDefault(&p.LeastBytes, 1<<20)
	setDefault(&p.TasksPerSlot, 32)
	setDefault(&p.KeyGroups, 128)
	setDefault(&p.BoundsBytes, 16<<20)
	setDefault(&p.Losses, 16)
	setDefault(&p.SlowAfter, 2*time.Second)
	setDefault(&p.HistoryJobs, 1000)
	setDefault(&p.HistoryTasks, 200_000)
	setDefault(&p.HistoryBytes, 64<<20)
	if p.Restart.Kind == "" {
		p.Restart = catalog.RestartStrategy{Kind: catalog.RestartFixedDelay, Attempts: 2, Delay: 250 * time.Millisecond}
	}
	return p
}

func setDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
