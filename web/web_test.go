package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/runner/joblog"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

const evil = `<script>alert("x")</script>`

type fake struct{ jobs []*runner.Job }

func (f *fake) Jobs() (out []runner.Summary) {
	for _, j := range f.jobs {
		out = append(out, j.Summary)
	}
	return out
}

func (f *fake) Job(id string) (*runner.Job, error) {
	for _, j := range f.jobs {
		if j.ID == id {
			return j, nil
		}
	}
	return nil, runner.ErrUnknownJob
}

func (f *fake) Metrics(_ context.Context, id string) (attempted, committed []*pipepb.MonitoringInfo, err error) {
	if _, err := f.Job(id); err != nil {
		return nil, nil, err
	}
	counter := func(v byte) []*pipepb.MonitoringInfo {
		return []*pipepb.MonitoringInfo{{
			Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1", Payload: []byte{v},
			Labels: map[string]string{"PTRANSFORM": evil, "NAMESPACE": "ns", "NAME": "n"},
		}}
	}
	return counter(7), counter(5), nil
}

func sample() *runner.Job {
	now := time.Now()
	return &runner.Job{
		Summary: runner.Summary{ID: "j-1", Name: evil, State: catalog.Failed, Accepted: now, Ended: now, Error: evil, Tasks: runner.Counts{Finished: 1, Waiting: 1},
			Options: json.RawMessage(`{"a": "` + strings.ReplaceAll(evil, `"`, `\"`) + `"}`)},
		Graph: &jobgraph.Graph{
			Stages: []*jobgraph.Stage{
				{ID: "s1", Name: evil, Root: jobgraph.RootImpulse, Outputs: []jobgraph.DatasetID{"d1"}},
				{ID: "s2", Name: "Count/Group, Format", Root: jobgraph.RootGroup, Inputs: []jobgraph.DatasetID{"d1"}},
			},
			Datasets: []*jobgraph.Dataset{{ID: "d1", Collection: evil, Producer: "s1", Consumers: []jobgraph.StageID{"s2"}, Partitioning: jobgraph.ByKey, Exchange: jobgraph.Blocking}},
			Regions:  []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}}, {ID: "r2", Stages: []jobgraph.StageID{"s2"}}},
		},
		Regions: []runner.Region{{ID: "r1", State: runner.Finished, Stages: []jobgraph.StageID{"s1"}, Why: evil}},
		Stages: []runner.Stage{
			{ID: "s1", Name: evil, State: runner.Finished, Parallelism: 1, Amounts: runner.Amounts{InElements: 1234567},
				Tasks: []runner.Task{{State: runner.Finished, TaskManager: evil, Started: now, Ended: now}}},
			{ID: "s2", Name: "Count/Group, Format", State: runner.Waiting},
		},
		Failures: []runner.Failure{{At: now, Kind: "user", Stage: "s2", Message: evil}},
	}
}

func newServer(t *testing.T, opts Options) (*Server, *joblog.Store) {
	t.Helper()
	log, err := joblog.New(t.TempDir(), joblog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return New(&fake{jobs: []*runner.Job{sample()}}, log, opts), log
}

func ask(t *testing.T, s *Server, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:1"+path, nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// Pages hold all that there is, and nothing of it becomes markup.
func TestPages(t *testing.T) {
	s, log := newServer(t, Options{Version: "v"})
	if err := log.Append("j-1", joblog.Entry{Level: joblog.Error, Origin: evil, Transform: evil, Text: evil}); err != nil {
		t.Fatal(err)
	}
	for path, wants := range map[string][]string{
		"/":         {"j-1", "FAILED", "1 of 2"},
		"/jobs/j-1": {"<svg", "1,234,567", `<tspan class="id">s1</tspan> impulse`, ">r1<", ">7<", ">5<", "ns:n", "Group, Format", "d1: "},
	} {
		w := ask(t, s, path)
		body := w.Body.String()
		if w.Code != http.StatusOK || strings.Contains(body, evil) {
			t.Errorf("%s: status %d, hostile text as it came: %v", path, w.Code, strings.Contains(body, evil))
		}
		for _, want := range append(wants, "&lt;script&gt;") {
			if !strings.Contains(body, want) {
				t.Errorf("%s doesn't show %q", path, want)
			}
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "script-src 'self'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	if w := ask(t, s, "/jobs/"+"%3Cscript%3E"); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "<script>") {
		t.Errorf("unknown job: %d", w.Code)
	}
	for _, asset := range []string{"style.css", "fresh.js", "icon.svg"} {
		if w := ask(t, s, "/assets/"+asset); w.Code != http.StatusOK {
			t.Errorf("%s: %d", asset, w.Code)
		}
	}
}

// The API answers JSON, errors too.
func TestAPI(t *testing.T) {
	s, _ := newServer(t, Options{})
	var list JobList
	if err := json.Unmarshal(ask(t, s, "/api/v1/jobs").Body.Bytes(), &list); err != nil || len(list.Jobs) != 1 {
		t.Errorf("jobs: %v %v", list, err)
	}
	var job runner.Job
	if err := json.Unmarshal(ask(t, s, "/api/v1/jobs/j-1").Body.Bytes(), &job); err != nil || job.ID != "j-1" || len(job.Stages[0].Tasks) != 1 {
		t.Errorf("job: %v", err)
	}
	var m MetricList
	if err := json.Unmarshal(ask(t, s, "/api/v1/jobs/j-1/metrics").Body.Bytes(), &m); err != nil || len(m.Metrics) != 1 || m.Metrics[0].Attempted != "7" || m.Metrics[0].Committed != "5" {
		t.Errorf("metrics: %+v %v", m, err)
	}
	for path, code := range map[string]int{
		"/healthz": 200, "/api/v1/jobs/nobody": 404, "/api/v1/jobs/nobody/plan": 404, "/api/v1/jobs/nobody/messages": 404, "/api/v1/jobs/nobody/metrics": 404,
		"/api/v1/jobs/j-1/plan": 200, "/api/v1/jobs/j-1/messages?max=x": 400, "/api/v1/jobs/j-1/messages?level=loud": 400, "/nothing": 404, "/debug/pprof/": 404, "/metrics": 404,
	} {
		if w := ask(t, s, path); w.Code != code {
			t.Errorf("%s: %d, want %d", path, w.Code, code)
		}
	}
}

// Messages can be read in helpings, by level, from a position on.
func TestMessages(t *testing.T) {
	s, log := newServer(t, Options{})
	for i := range 10 {
		level := joblog.Info
		if i%2 == 1 {
			level = joblog.Warn
		}
		if err := log.Append("j-1", joblog.Entry{Level: level, Text: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(query string) (list MessageList) {
		t.Helper()
		if err := json.Unmarshal(ask(t, s, "/api/v1/jobs/j-1/messages"+query).Body.Bytes(), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if l := read("?max=4"); len(l.Messages) != 4 || l.Next != 4 || l.Ended {
		t.Errorf("first: %d, next %d, ended %v", len(l.Messages), l.Next, l.Ended)
	}
	if l := read("?after=4&max=100&wait=10s"); len(l.Messages) != 6 || l.Next != 10 || !l.Ended {
		t.Errorf("rest: %d, next %d, ended %v", len(l.Messages), l.Next, l.Ended)
	}
	if l := read("?level=warn"); len(l.Messages) != 5 {
		t.Errorf("warnings: %d", len(l.Messages))
	}
	if l := read("?after=10&wait=10s"); len(l.Messages) != 0 || !l.Ended {
		t.Errorf("after the end: %+v", l)
	}
}

// Requests by a name that others control are refused, and nothing can be
// changed by any.
func TestDoor(t *testing.T) {
	s, _ := newServer(t, Options{})
	for host, code := range map[string]int{
		"localhost:8081": 200, "127.0.0.1:8081": 200, "[::1]:8081": 200, "127.0.0.9": 200,
		"evil.example": 421, "evil.example:8081": 421, "127.0.0.1.evil.example": 421, "192.168.1.1:8081": 421, "": 421,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != code {
			t.Errorf("host %q: %d, want %d", host, w.Code, code)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut} {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost/api/v1/jobs/j-1", nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// Numbers are written for people.
func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 30: "5 GiB", 1023 << 10: "999 KiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -123: "-123"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ms", 1500 * time.Millisecond: "1.5 s", 61 * time.Second: "1 min 01 s", 90 * time.Minute: "1 h 30 min"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %s, want %s", d, got, want)
		}
	}
}
