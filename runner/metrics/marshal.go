package metrics

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Marshal encodes the set in at most limit bytes, which must be 10 or more.
// Series that don't fit are dropped and counted: first those whose values can
// be long (sets, tries, histograms), then metrics of Beam's own, then users'
// numbers; element counts last. Equal sets give equal bytes.
func (s *Set) Marshal(limit int) []byte {
	keys := slices.SortedFunc(maps.Keys(s.cells), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.cells[a].rank(), s.cells[b].rank()), cmp.Compare(a, b))
	})
	var body []byte
	dropped := s.dropped
	for _, key := range keys {
		info, err := deterministic.Marshal(s.cells[key].info())
		if err != nil || binary.MaxVarintLen64+len(body)+binary.MaxVarintLen32+len(info) > limit {
			dropped++
			continue
		}
		body = binary.AppendUvarint(body, uint64(len(info)))
		body = append(body, info...)
	}
	return append(binary.AppendUvarint(nil, uint64(dropped)), body...)
}

// rank orders series by how soon they are to be kept.
func (e *entry) rank() int {
	switch e.cell.(type) {
	case *stringSet, *trie, *histogram:
		return 3
	}
	switch {
	case e.urn == urnElementCount:
		return 0
	case strings.HasPrefix(e.urn, "beam:metric:user:"):
		return 1
	}
	return 2
}

var errMarshaled = errors.New("metrics: not a marshaled set")

// Unmarshal folds in what Marshal wrote.
func (s *Set) Unmarshal(b []byte) error {
	dropped, n := binary.Uvarint(b)
	if n <= 0 {
		return errMarshaled
	}
	s.dropped += int64(dropped)
	for b = b[n:]; len(b) > 0; {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return errMarshaled
		}
		var info pipepb.MonitoringInfo
		if err := proto.Unmarshal(b[n:n+int(size)], &info); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		if err := s.add(&info, nil); err != nil {
			return fmt.Errorf("metrics: %s: %w", info.GetUrn(), err)
		}
		b = b[n+int(size):]
	}
	return nil
}
