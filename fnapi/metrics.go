package fnapi

import (
	"context"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// shortIDs remembers what a worker's short metric ids stand for. They mean the
// same as long as the worker lives.
type shortIDs struct {
	mu    sync.Mutex
	known map[string]*pipepb.MonitoringInfo
}

// missing are those of ids that are not known.
func (s *shortIDs) missing(ids []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var unknown []string
	for _, id := range ids {
		if s.known[id] == nil {
			unknown = append(unknown, id)
		}
	}
	return unknown
}

// learn keeps the infos of the ids that were asked for.
func (s *shortIDs) learn(asked []string, infos map[string]*pipepb.MonitoringInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[string]*pipepb.MonitoringInfo)
	}
	for _, id := range asked {
		if info := infos[id]; info != nil {
			s.known[id] = info
		}
	}
}

// ResolveShortIDs says what metrics the worker's short ids stand for. The
// infos have no payload, and are shared: don't change them. It asks the worker
// only for what it has not said before. Ids that the worker doesn't know are
// absent.
func (w *Worker) ResolveShortIDs(ctx context.Context, ids []string) (map[string]*pipepb.MonitoringInfo, error) {
	if unknown := w.shortIDs.missing(ids); len(unknown) > 0 {
		resp, err := w.Do(ctx, &fnpb.InstructionRequest{
			Request: &fnpb.InstructionRequest_MonitoringInfos{
				MonitoringInfos: &fnpb.MonitoringInfosMetadataRequest{MonitoringInfoId: unknown},
			},
		})
		if err != nil {
			return nil, err
		}
		w.shortIDs.learn(unknown, resp.GetMonitoringInfos().GetMonitoringInfo())
	}
	w.shortIDs.mu.Lock()
	defer w.shortIDs.mu.Unlock()
	found := make(map[string]*pipepb.MonitoringInfo, len(ids))
	for _, id := range ids {
		if info := w.shortIDs.known[id]; info != nil {
			found[id] = info
		}
	}
	return found, nil
}
