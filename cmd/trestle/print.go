package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/web"
)

// A table prints rows in columns.
type table struct{ rows [][]string }

func newTable(head ...string) *table { return &table{rows: [][]string{head}} }

func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = plain(c)
	}
	t.rows = append(t.rows, cells)
}

// plain makes a text safe to print in one line of a terminal: names come from
// anyone who can submit a job.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}

// plainLines is plain for a text of several lines.
func plainLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = plain(strings.ReplaceAll(l, "\t", "    "))
	}
	return strings.Join(lines, "\n")
}

func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.rows[0]))
	for _, r := range t.rows {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range t.rows {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// printJob prints a job for people.
func printJob(w io.Writer, job *runner.Job, tasks bool) {
	fmt.Fprintf(w, "%s  %s\n", plain(job.Name), job.State)
	fmt.Fprintf(w, "  id         %s\n", job.ID)
	fmt.Fprintf(w, "  submitted  %s\n", job.Accepted.Local().Format(time.DateTime))
	fmt.Fprintf(w, "  took       %s\n", took(job.Accepted, job.Ended))
	fmt.Fprintf(w, "  tasks      %d of %d finished, %d running\n", job.Tasks.Finished, job.Tasks.Total(), job.Tasks.Running)
	if job.Restarts > 0 {
		fmt.Fprintf(w, "  restarts   %d\n", job.Restarts)
	}
	if job.Error != "" {
		first, rest, _ := strings.Cut(strings.TrimSpace(job.Error), "\n")
		fmt.Fprintf(w, "  error      %s\n", plain(first))
		if rest != "" {
			fmt.Fprintf(w, "             (all of it: trestle logs %s --level failure)\n", job.ID)
		}
	}
	fmt.Fprintln(w)
	streams := slices.ContainsFunc(job.Stages, func(s runner.Stage) bool { return s.Watermarks != nil })
	head := []string{"STAGE", "REGION", "ROOT", "STATE", "TASKS", "IN", "BYTES", "OUT", "BYTES", "TOOK"}
	if streams {
		head = append(head, "WATERMARK")
	}
	t := newTable(append(head, "NAME")...)
	for _, s := range job.Stages {
		row := []string{string(s.ID), string(s.Region), string(s.Root), string(s.State), fmt.Sprintf("%d/%d", finished(s.Tasks), s.Parallelism),
			web.Count(s.InElements), web.Bytes(s.InBytes), web.Count(s.OutElements), web.Bytes(s.OutBytes), took(s.Started, s.Ended)}
		switch {
		case streams && s.Watermarks != nil:
			row = append(row, s.Watermarks.Output.String())
		case streams:
			row = append(row, "")
		}
		t.row(append(row, shorten(web.StageLabel(s.Name), 70))...)
	}
	t.print(w)
	if tasks {
		fmt.Fprintln(w)
		printTasks(w, job)
	}
	if len(job.Failures) > 0 {
		fmt.Fprintln(w)
		for _, f := range job.Failures {
			where := ""
			if f.Stage != "" {
				where = fmt.Sprintf("%s[%d] attempt %d: ", f.Stage, f.Index, f.Attempt)
			}
			fmt.Fprintf(w, "%s  %s%s: %s\n", f.At.Local().Format(time.TimeOnly), where, f.Kind, firstLine(f.Message))
		}
	}
}

func printTasks(w io.Writer, job *runner.Job) {
	t := newTable("TASK", "ATTEMPT", "STATE", "TASKMANAGER", "SLOT", "STARTED", "TOOK", "IN", "BYTES", "OUT", "BYTES", "OUTPUT")
	for _, s := range job.Stages {
		for _, k := range s.Tasks {
			started := ""
			if !k.Started.IsZero() {
				started = k.Started.Local().Format("15:04:05.000")
			}
			t.row(fmt.Sprintf("%s[%d]", s.ID, k.Index), strconv.FormatUint(uint64(k.Attempt), 10), string(k.State), k.TaskManager, strconv.Itoa(k.Slot),
				started, took(k.Started, k.Ended), web.Count(k.InElements), web.Bytes(k.InBytes), web.Count(k.OutElements), web.Bytes(k.OutBytes), k.Durable)
		}
	}
	t.print(w)
}

func finished(tasks []runner.Task) (n int) {
	for _, t := range tasks {
		if t.State == runner.Finished {
			n++
		}
	}
	return n
}

// shorten keeps the beginning of a long name.
func shorten(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

// firstLine is what a failure begins with. All of it is in the job's log.
func firstLine(s string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return shorten(plain(first), 400)
}

func printMessage(w io.Writer, m joblog.Entry) {
	if m.Missing > 0 {
		fmt.Fprintf(w, "  … %d messages are no longer kept …\n", m.Missing)
	}
	from := m.Origin
	if m.Transform != "" {
		from += " " + m.Transform
	}
	fmt.Fprintf(w, "%s %-7s %s: %s\n", m.Time.Local().Format("15:04:05.000"), m.Level, plain(from), plainLines(m.Text))
}
