package web

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/runner/joblog"
)

const (
	messagesShown = 200
	tasksShown    = 100 // of one stage
)

// pageHead is what every page shows.
type pageHead struct {
	Title   string
	Version string
	Refresh int // seconds between two looks of a browser without scripts; 0 for never
}

func (s *Server) pageJobs(w http.ResponseWriter, r *http.Request) {
	s.render(w, "jobs.html", struct {
		pageHead
		Jobs        []runner.Summary
		JobEndpoint string
		Now         time.Time
	}{pageHead{"Jobs", s.opts.Version, 5}, s.newestFirst(), cmp.Or(s.opts.JobEndpoint, "HOST:PORT"), time.Now()})
}

// A jobPage is all that the page of one job shows.
type jobPage struct {
	pageHead
	*runner.Job
	Now      time.Time
	Drawing  *planDrawing
	Messages []joblog.Entry
	Omitted  uint64 // earlier messages
	MaxTasks int

	UserMetrics, BeamMetrics []Metric
}

func (s *Server) pageJob(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	job, err := s.jobs.Job(id)
	if err != nil {
		code := http.StatusInternalServerError
		if errors.Is(err, runner.ErrUnknownJob) {
			code = http.StatusNotFound
		}
		w.WriteHeader(code)
		s.render(w, "error.html", struct {
			pageHead
			Error string
		}{pageHead{"Not found", s.opts.Version, 0}, fmt.Sprintf("There is no job %q.", id)})
		return
	}
	page := jobPage{pageHead: pageHead{job.Name, s.opts.Version, 0}, Job: job, Now: time.Now(), MaxTasks: tasksShown}
	if !job.State.Terminal() {
		page.Refresh = 5
	}
	page.Drawing = drawPlan(job)
	if page.Messages, page.Omitted, err = s.lastMessages(id); err != nil {
		s.opts.Log.Error("messages can't be shown", "job", id, "err", err)
	}
	if list, err := s.metrics(r); err == nil {
		for _, m := range list.Metrics {
			if m.User {
				page.UserMetrics = append(page.UserMetrics, m)
			} else {
				page.BeamMetrics = append(page.BeamMetrics, m)
			}
		}
	}
	s.render(w, "job.html", page)
}

func (s *Server) lastMessages(id string) (entries []joblog.Entry, omitted uint64, err error) {
	last, err := s.messages.Last(id)
	if err != nil {
		return nil, 0, err
	}
	if last > messagesShown {
		omitted = last - messagesShown
	}
	reader, err := s.messages.Open(id, omitted)
	if err != nil {
		return nil, 0, err
	}
	defer reader.Close()
	entries, err = reader.Read(messagesShown)
	return entries, omitted, err
}

func (s *Server) render(w http.ResponseWriter, page string, data any) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, page, data); err != nil {
		s.opts.Log.Error("page can't be shown", "page", page, "err", err)
		http.Error(w, "the page can't be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
}

// A longText is a text of which people see the first line first.
type longText struct{ ID, First, Rest string }

// foldText splits a text behind its first line.
func foldText(s string) (first, rest string) {
	first, rest, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return first, strings.TrimSpace(rest)
}

var pageFuncs = template.FuncMap{
	"bytes": func(n int64) string { return Bytes(n) },
	"count": func(n int64) string { return Count(n) },
	"since": func(from, to, now time.Time) string {
		switch {
		case from.IsZero():
			return ""
		case to.IsZero():
			to = now
		}
		return Duration(to.Sub(from))
	},
	"clock": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format("15:04:05.000")
	},
	"moment": func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format("2006-01-02 15:04:05")
	},
	"first":        func(n int, tasks []runner.Task) []runner.Task { return tasks[:min(n, len(tasks))] },
	"done":         finished,
	"label":        StageLabel,
	"total":        runner.Counts.Total,
	"stageList":    func(ids []jobgraph.StageID) string { return strings.Trim(fmt.Sprint(ids), "[]") },
	"firstLine":    func(s string) string { first, _ := foldText(s); return first },
	"furtherLines": func(s string) string { _, rest := foldText(s); return rest },
	"long": func(kind string, number any, text string) longText {
		first, rest := foldText(text)
		return longText{fmt.Sprint(kind, "-", number), first, rest}
	},
	"json": prettyJSON,
}
