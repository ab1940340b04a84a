package metrics

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// maxNames bounds what one worker may name.
const maxNames = 5 * maxSeries

// Names resolves the short ids that one worker gives to URN and labels of its
// metrics, so that these travel once and not with every bundle. A worker's
// short ids keep their meaning for its lifetime. Names is safe for concurrent
// use.
type Names struct {
	rename func(string) string

	mu    sync.RWMutex
	known map[string]*series // nil for what is not folded
	read  map[string]string  // of those that tell how far a transform has read, the transform
}

// NewNames returns the names of a worker that has told none yet. Rename is as
// in Set.Add.
func NewNames(rename func(transform string) string) *Names {
	return &Names{rename: rename, known: make(map[string]*series), read: make(map[string]string)}
}

// Unknown returns the short ids in data that the worker must be asked for
// before Set.AddShort, sorted.
func (n *Names) Unknown(data map[string][]byte) []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var unknown []string
	for id := range data {
		if _, ok := n.known[id]; !ok {
			unknown = append(unknown, id)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// Learn takes the worker's answer for some short ids.
func (n *Names) Learn(infos map[string]*pipepb.MonitoringInfo) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, info := range infos {
		if len(n.known) >= maxNames {
			return
		}
		n.known[id] = n.resolve(info)
		if info.GetUrn() == urnReadIndex {
			n.read[id] = info.GetLabels()[labelTransform]
		}
	}
}

func (n *Names) resolve(info *pipepb.MonitoringInfo) *series {
	typ, ok := foldedType(info)
	if !ok {
		return nil
	}
	transform, hasTransform := info.GetLabels()[labelTransform]
	if hasTransform && n.rename != nil {
		if transform = n.rename(transform); transform == "" {
			return nil
		}
	}
	key := appendKey(nil, info.GetUrn(), info.GetLabels(), transform)
	if len(key) > maxLabelBytes {
		return nil
	}
	return newSeries(string(key), typ, info, transform)
}

// AddShort folds values in that are told by short id. Ids that names doesn't
// know are dropped.
func (s *Set) AddShort(data map[string][]byte, names *Names) error {
	names.mu.RLock()
	defer names.mu.RUnlock()
	var errs []error
	for id, payload := range data {
		sr, ok := names.known[id]
		if sr == nil {
			if !ok {
				s.dropped++
			}
			continue
		}
		e, ok := s.cells[sr.key]
		if !ok {
			if e = s.open(sr); e == nil {
				continue
			}
		}
		if err := s.fold(e, payload); err != nil {
			errs = append(errs, fmt.Errorf("metric %s: %w", sr.urn, err))
		}
	}
	return errors.Join(errs...)
}

// ReadIndex is how many elements a transform has read from its data stream, if
// the worker tells. names may be nil where nothing is told by short id.
func ReadIndex(transform string, infos []*pipepb.MonitoringInfo, data map[string][]byte, names *Names) (elements int64, ok bool) {
	payload := []byte(nil)
	for _, info := range infos {
		if info.GetUrn() == urnReadIndex && info.GetLabels()[labelTransform] == transform {
			payload = info.GetPayload()
		}
	}
	if names != nil {
		names.mu.RLock()
		defer names.mu.RUnlock()
		for id, p := range data {
			if names.read[id] == transform {
				payload = p
			}
		}
	}
	n, used := binary.Uvarint(payload)
	return int64(n), used > 0 && used == len(payload)
}
