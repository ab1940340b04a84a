package task

import (
	"encoding/binary"

	"trestle/runner/metrics"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Names of the counters, in the namespace "trestle", by which authors hear of
// elements that are in no pane and no state.
const (
	droppedNamespace = "trestle"
	droppedLate      = "dropped_due_to_lateness"
	droppedClosed    = "dropped_due_to_closed_window"
)

// lost counts elements that are dropped: late ones, whose window has expired,
// and those whose window's trigger has finished.
type lost struct{ late, closed int64 }

// tellLost adds to the metrics what was dropped since the last time.
func (s *stream) tellLost() {
	if s.lost == (lost{}) {
		return
	}
	transform := s.r.prog.Stream.RootOrigin
	if keyed := s.r.prog.Stage.KeyedTransforms; transform == "" && len(keyed) > 0 {
		if transform = keyed[0]; s.r.prog.Stage.Origins[transform] != "" {
			transform = s.r.prog.Stage.Origins[transform]
		}
	}
	set := new(metrics.Set)
	for name, n := range map[string]int64{droppedLate: s.lost.late, droppedClosed: s.lost.closed} {
		if n > 0 {
			_ = set.Add([]*pipepb.MonitoringInfo{counter(transform, name, n)}, same) // it is well formed
		}
	}
	s.r.live.commit(set)
	s.lost = lost{}
}

func same(transform string) string { return transform }

// counter is a metric as SDKs tell those of their users.
func counter(transform, name string, n int64) *pipepb.MonitoringInfo {
	return &pipepb.MonitoringInfo{
		Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1",
		Labels:  map[string]string{"PTRANSFORM": transform, "NAMESPACE": droppedNamespace, "NAME": name},
		Payload: binary.AppendUvarint(nil, uint64(n)),
	}
}
