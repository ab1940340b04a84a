package runner

import (
	"fmt"
	"log/slog"
	"time"

	"trestle/raftmeta/catalog"
)

// Messages takes the lines that are meant for a job's author. Post must not
// wait, and may be called from any goroutine. index is the entry of the log
// that the line comes from: after a restart the same lines come again, with the
// same index. A job's lines come before the state that they explain can be
// seen.
type Messages interface {
	Post(index uint64, job string, at time.Time, level slog.Level, text string)
}

type noMessages struct{}

func (noMessages) Post(uint64, string, time.Time, slog.Level, string) {}

// announce tells a job's author what was decided. Every JobManager does so for
// itself, in the same words.
func (b *Board) announce(index uint64, r catalog.Record) {
	post := func(at catalog.Instant, level slog.Level, format string, args ...any) {
		b.messages.Post(index, string(r.JobID()), at.Time(), level, fmt.Sprintf(format, args...))
	}
	switch r := r.(type) {
	case *catalog.JobAccepted:
		post(r.At, slog.LevelInfo, "job %q is accepted: %d stages in %d regions", r.Name, len(r.Graph.Stages), len(r.Graph.Regions))
	case *catalog.ParallelismChosen:
		post(r.At, slog.LevelDebug, "region %s: number of tasks %s", r.Region, r.Why)
	case *catalog.InputBound:
		post(r.At, slog.LevelInfo, "what stage %s reads is settled", r.Stage)
		for _, note := range r.Notes {
			post(r.At, slog.LevelWarn, "%s", note)
		}
	case *catalog.TasksReset:
		again := "at once"
		if r.Delay > 0 {
			again = "in " + r.Delay.Round(time.Millisecond).String()
		}
		post(r.At, slog.LevelWarn, "%s\n%d tasks will be run again, %s", r.Failure.String(), r.Count(), again)
	case *catalog.TaskDoubled:
		post(r.At, slog.LevelInfo, "task %d of stage %s takes long (%s): it is started a second time, elsewhere", r.Task.Index, r.Task.Stage, r.Why)
	case *catalog.StopRequested:
		post(r.At, slog.LevelInfo, "the job was asked to %s", r.Mode)
	case *catalog.JobEnded:
		if r.Failure != nil {
			post(r.At, slog.LevelError, "%s", r.Failure.Message)
		}
	}
}
