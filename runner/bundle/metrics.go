package bundle

import (
	"context"
	"fmt"
	"strings"

	"trestle/fnapi"
	"trestle/runner/metrics"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// told gives the transform that a metric is told by: the one of the submitted
// pipeline, "" for what we put into the descriptor ourselves.
func (p *Program) told(transform string) string {
	if o, ok := p.Stage.Origins[transform]; ok {
		return o
	}
	if transform == sourceID || strings.HasPrefix(transform, sinkPrefix) {
		return ""
	}
	return transform
}

// names gives the short ids that a worker uses for this stage's metrics.
func (p *Program) names(w *fnapi.Worker) *metrics.Names {
	n, ok := p.shortIDs.Load(w.ID())
	if !ok {
		n, _ = p.shortIDs.LoadOrStore(w.ID(), metrics.NewNames(p.told))
	}
	return n.(*metrics.Names)
}

// addMetrics folds what a worker told into set. Metrics that are malformed are
// left out: they are no reason to do the bundle's work again.
func (r *Runner) addMetrics(ctx context.Context, set *metrics.Set, infos []*pipepb.MonitoringInfo, short map[string][]byte) error {
	// TypeScript's workers tell all twice, and can't be asked what short ids mean.
	if len(short) <= len(infos) {
		_ = set.Add(infos, r.Program.told)
		return nil
	}
	w := r.lease.Worker()
	names := r.Program.names(w)
	if unknown := names.Unknown(short); len(unknown) > 0 {
		resp, err := w.Do(ctx, &fnpb.InstructionRequest{
			Request: &fnpb.InstructionRequest_MonitoringInfos{
				MonitoringInfos: &fnpb.MonitoringInfosMetadataRequest{MonitoringInfoId: unknown},
			},
		})
		if err != nil {
			return err
		}
		names.Learn(resp.GetMonitoringInfos().GetMonitoringInfo())
	}
	_ = set.AddShort(short, names)
	return nil
}

// checkRead makes sure that a worker has left alone what it gave back. One of
// Go's SDK that is asked for a split before it has begun with the bundle answers,
// and forgets its answer when it begins.
func (r *Runner) checkRead(in *Input, b *fnapi.Bundle, resp *fnpb.ProcessBundleResponse) error {
	if in.cut == 0 {
		return nil
	}
	w := r.lease.Worker()
	read, ok := metrics.ReadIndex(sourceID, resp.GetMonitoringInfos(), resp.GetMonitoringData(), r.Program.names(w))
	if ok && in.gaveBack(read) {
		return &fnapi.ProtocolError{
			Worker: w.Name(), Instruction: b.ID(),
			What: fmt.Sprintf("it was split and kept %d elements of %d, but has read %d", in.cut-1, len(in.Items), read),
		}
	}
	return nil
}

// gaveBack reports whether some of the first so many items were given back.
func (in *Input) gaveBack(read int64) bool { return in.cut > 0 && read > int64(in.cut-1) }
