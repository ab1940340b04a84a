// Package web shows a server's jobs: HTML pages for people, JSON for programs,
// and numbers for Prometheus.
//
// It only reads: nothing that comes in by HTTP changes anything, so that a
// hostile page in a user's browser can do no harm. For the same reason
// requests are answered only if they name a host that we listen as (DNS names
// of others may point here, too). Pages need no script and nothing from
// elsewhere; a small script, where it may run, keeps them fresh.
//
// What is shown is what the interfaces Jobs and Messages give. Options come
// with their secrets redacted already.
package web

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"trestle/runner"
	"trestle/runner/joblog"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Jobs is what there is to show. For an unknown id, methods return an error
// that is runner.ErrUnknownJob.
type Jobs interface {
	// Jobs are all jobs, the oldest first.
	Jobs() []runner.Summary
	Job(id string) (*runner.Job, error)
	// Metrics are as the job service tells them.
	Metrics(ctx context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error)
}

// Messages keeps what jobs had to say. (*joblog.Store has these methods.)
type Messages interface {
	Open(job string, after uint64) (*joblog.Reader, error)
	Last(job string) (uint64, error)
}

// Options are settings of a Server; the zero value is good.
type Options struct {
	Version string
	// Metrics answers /metrics; without it there are none.
	Metrics http.Handler
	// JobEndpoint is what the page tells who has no job yet.
	JobEndpoint string
	// AnyHost answers requests whatever host they name: for a server that is
	// open to the network.
	AnyHost bool
	// Profiles adds Go's profiles under /debug/pprof/.
	Profiles bool
	// Closing, when closed, ends requests that wait for news.
	Closing <-chan struct{}
	Log     *slog.Logger // slog.Default() if nil
}

//go:embed assets
var assets embed.FS

// A Server answers HTTP requests.
type Server struct {
	jobs     Jobs
	messages Messages
	opts     Options
	pages    *template.Template
	mux      *http.ServeMux
}

// New returns a Server, which is an http.Handler. Without jobs it tells of the
// process alone.
func New(jobs Jobs, messages Messages, opts Options) *Server {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Server{jobs: jobs, messages: messages, opts: opts, mux: http.NewServeMux()}
	s.pages = template.Must(template.New("").Funcs(pageFuncs).ParseFS(assets, "assets/*.html"))
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	if opts.Metrics != nil {
		s.mux.Handle("GET /metrics", opts.Metrics)
	}
	s.mux.HandleFunc("GET /api/v1/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"version": opts.Version})
	})
	if jobs != nil {
		s.showJobs()
	}
	if opts.Profiles {
		s.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		s.mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		s.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		s.mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		s.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return s
}

func (s *Server) showJobs() {
	s.mux.HandleFunc("GET /api/v1/jobs", s.apiJobs)
	s.mux.HandleFunc("GET /api/v1/jobs/{id}", s.apiJob)
	s.mux.HandleFunc("GET /api/v1/jobs/{id}/plan", s.apiPlan)
	s.mux.HandleFunc("GET /api/v1/jobs/{id}/metrics", s.apiMetrics)
	s.mux.HandleFunc("GET /api/v1/jobs/{id}/messages", s.apiMessages)
	s.mux.HandleFunc("GET /{$}", s.pageJobs)
	s.mux.HandleFunc("GET /jobs/{id}", s.pageJob)
	s.mux.Handle("GET /assets/", http.FileServerFS(assets))
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.opts.AnyHost && !ownHost(r.Host) {
		http.Error(w, "this server answers to localhost only", http.StatusMisdirectedRequest)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	s.mux.ServeHTTP(w, r)
}

// ownHost reports names of this machine that nobody else can point elsewhere.
func ownHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // a client that went away
}

// refuse answers with an error, as JSON.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, runner.ErrUnknownJob) {
		code, err = http.StatusNotFound, errors.New("there is no such job")
	}
	refuseWith(w, code, err)
}

func refuseWith(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// A JobList answers /api/v1/jobs.
type JobList struct {
	Jobs []runner.Summary `json:"jobs"` // the newest first
}

func (s *Server) apiJobs(w http.ResponseWriter, _ *http.Request) {
	answer(w, JobList{Jobs: s.newestFirst()})
}

func (s *Server) newestFirst() []runner.Summary {
	jobs := slices.Clone(s.jobs.Jobs())
	slices.Reverse(jobs)
	for i := range jobs {
		jobs[i].Options = nil // of many jobs they are much; each job's own page has them
	}
	if jobs == nil {
		jobs = []runner.Summary{}
	}
	return jobs
}

// summary finds one job without building all there is to show of it.
func (s *Server) summary(id string) (runner.Summary, error) {
	for _, j := range s.jobs.Jobs() {
		if j.ID == id {
			return j, nil
		}
	}
	return runner.Summary{}, runner.ErrUnknownJob
}

func (s *Server) apiJob(w http.ResponseWriter, r *http.Request) {
	job, err := s.jobs.Job(r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, job)
}

func (s *Server) apiPlan(w http.ResponseWriter, r *http.Request) {
	job, err := s.jobs.Job(r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, job.Graph)
}

// MessageList answers /api/v1/jobs/ID/messages. The query says after which
// number (after), at most how many (max), at least of which level (level), and
// how long to wait for the first one (wait, a duration up to 30s).
type MessageList struct {
	Messages []joblog.Entry `json:"messages"`
	Next     uint64         `json:"next"`  // what to ask after next time
	Ended    bool           `json:"ended"` // the job has ended and there is nothing more
}

func (s *Server) apiMessages(w http.ResponseWriter, r *http.Request) {
	q, err := parseMessageQuery(r)
	if err != nil {
		refuseWith(w, http.StatusBadRequest, err)
		return
	}
	list, err := s.readMessages(r.Context(), r.PathValue("id"), q)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, list)
}

func (s *Server) readMessages(ctx context.Context, id string, q messageQuery) (MessageList, error) {
	list := MessageList{Messages: []joblog.Entry{}, Next: q.after}
	if _, err := s.summary(id); err != nil {
		return list, err
	}
	reader, err := s.messages.Open(id, q.after)
	if err != nil {
		return list, err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, q.wait)
	defer cancel()
	for {
		// The state first: what is logged after the end is no part of it.
		job, err := s.summary(id)
		if err != nil {
			return list, err
		}
		ended := job.State.Terminal()
		changed := reader.Changed()
		for len(list.Messages) < q.max {
			entries, err := reader.Read(q.max - len(list.Messages))
			if err != nil {
				return list, err
			}
			if len(entries) == 0 {
				list.Ended = ended
				break
			}
			for _, e := range entries {
				list.Next = e.N
				if e.Level >= q.level {
					list.Messages = append(list.Messages, e)
				}
			}
		}
		if len(list.Messages) > 0 || ended || q.wait == 0 {
			return list, nil
		}
		if !s.pause(ctx, changed) {
			return list, nil
		}
	}
}

// pause waits for news of a job. Its end makes no entry by itself, so a second
// is the longest it waits.
func (s *Server) pause(ctx context.Context, changed <-chan struct{}) bool {
	second := time.NewTimer(time.Second)
	defer second.Stop()
	select {
	case <-changed:
	case <-second.C:
	case <-ctx.Done():
		return false
	case <-s.opts.Closing:
		return false
	}
	return true
}
