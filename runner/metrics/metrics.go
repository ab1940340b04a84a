// Package metrics folds the monitoring infos of bundles into one value for
// each metric.
//
// A worker tells what a bundle counted as monitoring infos: a URN, a type,
// labels, and an encoded value. Infos with the same URN and labels are one
// series, and its type says how two values become one: sums add, gauges keep
// the latest, sets unite. A Set holds the folded values of a task, of a stage
// or of a job; whether they are attempted or committed ones is the caller's
// choice of which bundles it adds.
//
// What has no meaning across bundles is left out: progress, a data channel's
// read index, types that are unknown. A Set is bounded, however much a worker
// tells; Dropped says how many values or series found no room.
package metrics

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Labels that the runner looks at.
const (
	labelTransform  = "PTRANSFORM"
	labelCollection = "PCOLLECTION"
)

// URNs that the runner looks at.
const (
	urnElementCount = "beam:metric:element_count:v1"
	urnReadIndex    = "beam:metric:data_channel:read_index:v1"
)

// Bounds of one Set.
const (
	maxSeries       = 20_000
	maxPayloadBytes = 1 << 20
	maxLabelBytes   = 16 << 10 // of one series
)

// A series is the identity of a metric.
type series struct {
	key    string // urn and sorted labels; equal for equal series
	urn    string
	typ    string
	labels map[string]string
}

// A Set is the folded values of many series. The zero value is empty and
// ready. It is not safe for concurrent use.
type Set struct {
	cells   map[string]*entry
	dropped int64
	scratch []byte
}

type entry struct {
	*series
	cell
}

// Add folds infos in. If rename is not nil, it gives each transform id of the
// labels the id that the metric is to be told by; infos of transforms that it
// renames to "" are left out. What is malformed is left out too, and the error
// says so; the rest is in the set all the same.
func (s *Set) Add(infos []*pipepb.MonitoringInfo, rename func(transform string) string) error {
	var errs []error
	for _, info := range infos {
		if err := s.add(info, rename); err != nil {
			errs = append(errs, fmt.Errorf("metric %s: %w", info.GetUrn(), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Set) add(info *pipepb.MonitoringInfo, rename func(string) string) error {
	typ, ok := foldedType(info)
	if !ok {
		return nil
	}
	transform, hasTransform := info.GetLabels()[labelTransform]
	if hasTransform && rename != nil {
		if transform = rename(transform); transform == "" {
			return nil
		}
	}
	s.scratch = appendKey(s.scratch[:0], info.GetUrn(), info.GetLabels(), transform)
	e, ok := s.cells[string(s.scratch)]
	if !ok {
		if len(s.scratch) > maxLabelBytes {
			s.dropped++
			return nil
		}
		if e = s.open(newSeries(string(s.scratch), typ, info, transform)); e == nil {
			return nil
		}
	}
	return s.fold(e, info.GetPayload())
}

// open makes the entry of a series that has none, or drops it for want of room.
func (s *Set) open(sr *series) *entry {
	if len(s.cells) >= maxSeries {
		s.dropped++
		return nil
	}
	if s.cells == nil {
		s.cells = make(map[string]*entry)
	}
	e := &entry{series: sr, cell: newCell[sr.typ]()}
	s.cells[sr.key] = e
	return e
}

func (s *Set) fold(e *entry, payload []byte) error {
	if len(payload) > maxPayloadBytes {
		s.dropped++
		return nil
	}
	whole, err := e.fold(payload)
	if !whole {
		s.dropped++
	}
	return err
}

// Merge folds all of other in.
func (s *Set) Merge(other *Set) {
	s.dropped += other.dropped
	for key, from := range other.cells {
		e, ok := s.cells[key]
		if !ok {
			if e = s.open(from.series); e == nil {
				continue
			}
		}
		// What a cell writes, a cell of its type can read. Types differ only
		// where SDKs disagree about a URN; then the first one stays.
		if err := s.fold(e, from.append(nil)); err != nil {
			s.dropped++
		}
	}
}

// Infos returns the values as monitoring infos, in the order of URNs and labels.
func (s *Set) Infos() []*pipepb.MonitoringInfo {
	infos := make([]*pipepb.MonitoringInfo, 0, len(s.cells))
	for _, key := range slices.Sorted(maps.Keys(s.cells)) {
		infos = append(infos, s.cells[key].info())
	}
	return infos
}

func (e *entry) info() *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{Urn: e.urn, Type: e.typ, Labels: maps.Clone(e.labels), Payload: e.append(nil)}
}

// Len is the number of series.
func (s *Set) Len() int { return len(s.cells) }

// Dropped is the number of values and series that found no room.
func (s *Set) Dropped() int64 { return s.dropped }

// ElementCount is the number of elements counted in a collection.
func (s *Set) ElementCount(collection string) (n int64, ok bool) {
	var buf [128]byte
	key := appendKey(buf[:0], urnElementCount, map[string]string{labelCollection: collection}, "")
	if e, ok := s.cells[string(key)]; ok {
		if c, ok := e.cell.(*sum[int64]); ok {
			return c.total, true
		}
	}
	return 0, false
}

// Text prints the value of an info for people.
func Text(info *pipepb.MonitoringInfo) string {
	typ, ok := foldedType(info)
	if !ok {
		return ""
	}
	c := newCell[typ]()
	if _, err := c.fold(info.GetPayload()); err != nil {
		return err.Error()
	}
	return c.text()
}

// foldedType is the info's type if values of that type are folded. SDKs may
// leave the type out where the URN implies it.
func foldedType(info *pipepb.MonitoringInfo) (string, bool) {
	typ := info.GetType()
	if typ == "" {
		typ = typeOfURN[info.GetUrn()]
	}
	_, ok := newCell[typ]
	return typ, ok && info.GetUrn() != urnReadIndex
}

func newSeries(key, typ string, info *pipepb.MonitoringInfo, transform string) *series {
	labels := maps.Clone(info.GetLabels())
	if transform != "" {
		labels[labelTransform] = transform
	}
	return &series{key: key, urn: info.GetUrn(), typ: typ, labels: labels}
}

// appendKey appends urn and labels so that different ones never look alike:
// every part is preceded by its length.
func appendKey(dst []byte, urn string, labels map[string]string, transform string) []byte {
	dst = appendText(dst, urn)
	var buf [8]string
	names := buf[:0]
	for name := range labels {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := labels[name]
		if name == labelTransform {
			value = transform
		}
		dst = appendText(appendText(dst, name), value)
	}
	return dst
}
