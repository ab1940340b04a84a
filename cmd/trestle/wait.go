package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner"
	"trestle/web"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes of commands that wait for a job.
const (
	jobFailed    exitCode = 1
	jobCancelled exitCode = 3
)

func waitCommand() *cobra.Command {
	var cl client
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait until a job has ended",
		Long: `Wait until a job has ended, and show its progress on a terminal.

The exit status is 0 if the job is DONE or DRAINED, 1 if it FAILED and 3 if it
was CANCELLED.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("job %s has not ended after %s", args[0], timeout))
				defer cancel()
			}
			return waitFor(ctx, c, &cl, args[0], asJSON)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `DURATION`; the job goes on")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

// waitFor follows a job to its end and tells how it ended.
func waitFor(ctx context.Context, c *cobra.Command, cl *client, id string, asJSON bool) error {
	p := newProgress(c.ErrOrStderr(), asJSON)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, pollEvery) {
		var job runner.Job
		if err := cl.get(ctx, jobPath(id, ""), nil, &job); err != nil {
			p.clear()
			return causeOf(ctx, err)
		}
		p.show(&job)
		if job.State.Terminal() {
			p.clear()
			return ended(c, &job, asJSON)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			p.clear()
			return causeOf(ctx, ctx.Err())
		}
	}
}

func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func ended(c *cobra.Command, job *runner.Job, asJSON bool) error {
	if asJSON {
		if err := printJSON(c, job.Summary); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.OutOrStdout(), "%s %s after %s\n", job.ID, job.State, took(job.Accepted, job.Ended))
	}
	switch job.State {
	case catalog.Failed:
		if !asJSON {
			fmt.Fprintln(c.ErrOrStderr(), plainLines(job.Error))
		}
		return jobFailed
	case catalog.Cancelled:
		return jobCancelled
	}
	return nil
}

// A progress shows how far a job is: a bar for each stage on a terminal, and a
// line for each change of state elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
	silent   bool
	lines    int // drawn and to be drawn over
	width    int
	height   int
	last     catalog.JobState
}

func newProgress(out io.Writer, silent bool) *progress {
	p := &progress{out: out, silent: silent}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.width, p.height, _ = term.GetSize(int(f.Fd()))
		p.terminal = p.width >= 40 && p.height >= 8
	}
	return p
}

func (p *progress) show(job *runner.Job) {
	if p.silent {
		return
	}
	if !p.terminal {
		if job.State != p.last {
			fmt.Fprintf(p.out, "%s %s\n", job.ID, job.State)
			p.last = job.State
		}
		return
	}
	var b strings.Builder
	lines := []string{fmt.Sprintf("%s  %s  %s", job.ID, job.State, took(job.Accepted, job.Ended))}
	for i, s := range job.Stages {
		if i == p.height-4 {
			lines = append(lines, fmt.Sprintf("… %d more stages", len(job.Stages)-i))
			break
		}
		lines = append(lines, stageLine(s))
	}
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	for _, l := range lines {
		r := []rune(plain(l))
		fmt.Fprintf(&b, "\x1b[2K%s\n", string(r[:min(len(r), p.width-1)]))
	}
	b.WriteString("\x1b[J")
	p.lines = len(lines)
	_, _ = io.WriteString(p.out, b.String())
}

// clear takes the bars away, so that what follows stands alone.
func (p *progress) clear() {
	if p.lines > 0 {
		fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.lines)
		p.lines = 0
	}
}

func stageLine(s runner.Stage) string {
	const width = 20
	done := 0
	if s.Parallelism > 0 {
		done = width * finished(s.Tasks) / s.Parallelism
	}
	bar := strings.Repeat("█", done) + strings.Repeat("·", width-done)
	return fmt.Sprintf("%-4s %s %4d/%-4d %10s in %10s out  %s", s.ID, bar, finished(s.Tasks), s.Parallelism, web.Count(s.InElements), web.Count(s.OutElements), web.StageLabel(s.Name))
}
