package web

import (
	"net/http"
	"slices"
	"strings"

	"trestle/runner/metrics"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Metric is one number of a job, as people read it.
type Metric struct {
	Transform string `json:"transform,omitempty"` // or collection
	Name      string `json:"name"`                // namespace:name of a user's metric, or what of Beam's it is
	Kind      string `json:"kind"`
	Attempted string `json:"attempted"`
	Committed string `json:"committed,omitempty"`
	User      bool   `json:"user,omitempty"` // the pipeline's own
}

// A MetricList answers /api/v1/jobs/ID/metrics.
type MetricList struct {
	Metrics []Metric `json:"metrics"`
}

func (s *Server) apiMetrics(w http.ResponseWriter, r *http.Request) {
	list, err := s.metrics(r)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, list)
}

func (s *Server) metrics(r *http.Request) (MetricList, error) {
	attempted, committed, err := s.jobs.Metrics(r.Context(), r.PathValue("id"))
	if err != nil {
		return MetricList{}, err
	}
	return MetricList{Metrics: mergeMetrics(attempted, committed)}, nil
}

// mergeMetrics puts the attempted and committed values of one metric in one
// line. Lines are sorted by transform, the user's metrics first.
func mergeMetrics(attempted, committed []*pipepb.MonitoringInfo) []Metric {
	type key struct{ transform, name, kind string }
	found := map[key]*Metric{}
	add := func(infos []*pipepb.MonitoringInfo, field func(*Metric) *string) {
		for _, info := range infos {
			m := describeMetric(info)
			k := key{m.Transform, m.Name, m.Kind}
			if found[k] == nil {
				found[k] = &m
			}
			*field(found[k]) = metrics.Text(info)
		}
	}
	add(attempted, func(m *Metric) *string { return &m.Attempted })
	add(committed, func(m *Metric) *string { return &m.Committed })
	out := make([]Metric, 0, len(found))
	for _, m := range found {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Metric) int {
		if a.User != b.User {
			if a.User {
				return -1
			}
			return 1
		}
		if c := strings.Compare(a.Transform, b.Transform); c != 0 {
			return c
		}
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	return out
}

func describeMetric(info *pipepb.MonitoringInfo) Metric {
	l := info.GetLabels()
	m := Metric{Transform: l["PTRANSFORM"], Kind: shortURN(info.GetType(), "beam:metrics:")}
	if m.Transform == "" {
		m.Transform = l["PCOLLECTION"]
	}
	if l["NAME"] != "" {
		m.Name, m.User = l["NAMESPACE"]+":"+l["NAME"], true
	} else {
		m.Name = shortURN(info.GetUrn(), "beam:metric:")
	}
	return m
}

func shortURN(urn, prefix string) string {
	return strings.TrimSuffix(strings.TrimPrefix(urn, prefix), ":v1")
}
