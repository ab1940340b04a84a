package web

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Metric is one number of a job, as people read it.
type Metric struct {
	Transform string `json:"transform,omitempty"` // or collection
	Name      string `json:"name"`                // namespace:name of a user's metric, or what of Beam's it is
	Kind      string `json:"kind"`
	Attempted string `json:"attempted"`
	Committed string `json:"committed,omitempty"`
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
// line. Lines are sorted by transform, user's metrics first.
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
			*field(found[k]) = metricValue(info.GetType(), info.GetPayload())
		}
	}
	add(attempted, func(m *Metric) *string { return &m.Attempted })
	add(committed, func(m *Metric) *string { return &m.Committed })
	out := make([]Metric, 0, len(found))
	for _, m := range found {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Metric) int {
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
		m.Name = l["NAMESPACE"] + ":" + l["NAME"]
	} else {
		m.Name = shortURN(info.GetUrn(), "beam:metric:")
	}
	return m
}

func shortURN(urn, prefix string) string {
	return strings.TrimSuffix(strings.TrimPrefix(urn, prefix), ":v1")
}

// metricValue writes a payload as a person would; bytes that don't fit the
// type are shown as such.
func metricValue(kind string, payload []byte) string {
	d := decoder{rest: payload}
	var v string
	switch shortURN(kind, "beam:metrics:") {
	case "sum_int64":
		v = strconv.FormatInt(d.varint(), 10)
	case "sum_double":
		v = strconv.FormatFloat(d.double(), 'g', -1, 64)
	case "distribution_int64":
		count, sum, least, most := d.varint(), d.varint(), d.varint(), d.varint()
		v = fmt.Sprintf("count %d, sum %d, min %d, max %d", count, sum, least, most)
		if count > 0 {
			v += fmt.Sprintf(", mean %.4g", float64(sum)/float64(count))
		}
	case "distribution_double":
		count := d.varint()
		sum, least, most := d.double(), d.double(), d.double()
		v = fmt.Sprintf("count %d, sum %g, min %g, max %g", count, sum, least, most)
	case "latest_int64":
		d.varint() // when
		v = strconv.FormatInt(d.varint(), 10)
	case "latest_double":
		d.varint()
		v = strconv.FormatFloat(d.double(), 'g', -1, 64)
	case "set_string":
		v = d.strings()
	default:
		return fmt.Sprintf("%d bytes", len(payload))
	}
	if d.err != nil {
		return fmt.Sprintf("%d bytes that are no %s", len(payload), shortURN(kind, "beam:metrics:"))
	}
	return v
}

// A decoder reads the coders that metrics are made of; it remembers that it
// failed.
type decoder struct {
	rest []byte
	err  error
}

var errShort = errors.New("metric payload ends early")

func (d *decoder) varint() int64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.err, d.rest = errShort, nil
		return 0
	}
	d.rest = d.rest[n:]
	return int64(v)
}

func (d *decoder) double() float64 {
	if len(d.rest) < 8 {
		d.err, d.rest = errShort, nil
		return 0
	}
	v := math.Float64frombits(binary.BigEndian.Uint64(d.rest))
	d.rest = d.rest[8:]
	return v
}

// strings reads an iterable of strings and shows the first few.
func (d *decoder) strings() string {
	if len(d.rest) < 4 {
		d.err = errShort
		return ""
	}
	n := binary.BigEndian.Uint32(d.rest)
	d.rest = d.rest[4:]
	var shown []string
	for i := range n {
		size := d.varint()
		if d.err != nil || size < 0 || size > int64(len(d.rest)) {
			d.err = errShort
			return ""
		}
		if i < 20 {
			shown = append(shown, strconv.Quote(string(d.rest[:size])))
		}
		d.rest = d.rest[size:]
	}
	if n > 20 {
		shown = append(shown, fmt.Sprintf("… (%d in all)", n))
	}
	return strings.Join(shown, ", ")
}
