package bundle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"trestle/element"
	"trestle/fnapi"
	"trestle/runner/metrics"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

const (
	// embedLimit is how many bytes may ride inside the request instead of the
	// data stream, where the SDK reads them there.
	embedLimit = 64 << 10
	// progressEvery is when a running bundle is first asked for its metrics. The
	// pauses double up to progressMost, for an SDK's answer takes its time from the
	// bundle.
	progressEvery = time.Second
	progressMost  = 5 * time.Second
	// splitPause is how long a bundle that could not be split is left alone at
	// first, splitPauseMost later: it may be at its last element.
	splitPause     = 10 * time.Millisecond
	splitPauseMost = time.Second
	// splitSlow is what no split takes but one that found a worker of Go's SDK
	// between two elements: it waits there for half a second and holds the bundle
	// up with it. Then the end is near, and asking again soon would do it again.
	splitSlow = 300 * time.Millisecond
	// splitGrace is how long a bundle that has run for a while may go on before
	// it is split for a task that begins to wait. One that has run for splitLong is
	// not likely to end in the very next moment.
	splitGrace = 150 * time.Millisecond
	splitLong  = time.Second
	// splitLeast is how long one that has just begun is left alone: it may be done
	// before anybody could take its half. (Halves of a compressed file may begin
	// behind its end, with Go's textio, which fails then; small files are whole.)
	splitLeast = 20 * time.Millisecond
	// obituaryWait is how long a lost worker's last words are waited for.
	obituaryWait = 2 * time.Second
)

// feed sends the input and the last marks.
func (r *Runner) feed(ctx context.Context, b *fnapi.Bundle, in *Input) error {
	for _, c := range in.Chunks {
		if err := b.Send(ctx, sourceID, c); err != nil {
			return err
		}
	}
	for _, c := range in.Items {
		if err := b.Send(ctx, sourceID, c); err != nil {
			return err
		}
	}
	for _, t := range in.Timers {
		if err := b.SendTimers(ctx, t.Transform, t.Family, t.Bytes); err != nil {
			return err
		}
	}
	last, named := r.Program.marks()
	for _, t := range named {
		if err := b.NameTimers(ctx, t[0], t[1]); err != nil {
			return err
		}
	}
	return b.CloseInput(ctx, []string{sourceID}, last)
}

// embed puts the input into the request's own field, and the last marks of all
// that a bundle may be given there.
func (r *Runner) embed(in *Input) *fnpb.Elements {
	var all []byte
	for _, c := range in.Chunks {
		all = append(all, c...)
	}
	for _, c := range in.Items {
		all = append(all, c...)
	}
	e := &fnpb.Elements{}
	e.Data = append(e.Data, &fnpb.Elements_Data{TransformId: sourceID, Data: all, IsLast: true})
	for _, t := range r.Program.Timers {
		e.Timers = append(e.Timers, &fnpb.Elements_Timers{TransformId: t[0], TimerFamilyId: t[1], IsLast: true})
	}
	return e
}

// split asks the worker to keep a fraction of what it has not done yet. It
// reports whether there was something to give. After an error the bundle must
// not commit, even if the worker has done what it kept.
func (r *Runner) split(ctx context.Context, b *fnapi.Bundle, in *Input, keep float64) (gave bool, err error) {
	resp, err := b.Split(ctx, map[string]*fnpb.ProcessBundleSplitRequest_DesiredSplit{
		sourceID: {FractionOfRemainder: keep, EstimatedInputElements: int64(len(in.Items))},
	})
	if err != nil || len(resp.GetChannelSplits())+len(resp.GetPrimaryRoots())+len(resp.GetResidualRoots()) == 0 {
		// A worker that can't split now is no error: it works on.
		return false, nil
	}
	if in.atEnd(resp) {
		return false, nil
	}
	if err := r.checkRoots(b, resp.GetPrimaryRoots(), resp.GetResidualRoots()); err != nil {
		return false, err
	}
	kept, given, ok := in.narrow(resp)
	if !ok {
		// The worker has given up something, and we don't know what.
		return false, &fnapi.ProtocolError{
			Worker: r.lease.Worker().Name(), Instruction: b.ID(),
			What: fmt.Sprintf("a split of %d elements made no sense: %v", len(in.Items), resp.GetChannelSplits()),
		}
	}
	// Noted first: from here on a later try of this bundle runs the primary only.
	in.pending = kept
	if len(given) == 0 {
		return false, nil
	}
	r.GiveBack(kept, given)
	return true, nil
}

// splitWait is how long a bundle that has run for so long is left alone when a
// task begins to wait.
func splitWait(ran time.Duration) time.Duration {
	if ran >= splitLong {
		return 0
	}
	return min(max(ran, splitLeast), splitGrace)
}

// atEnd reports whether an answer says that all elements are done and there is
// nothing to give: Go's workers split behind the last one then, while DoFns
// finish the bundle. Whether a worker is there because it has read what it gave
// back is seen at the end, by checkRead.
func (in *Input) atEnd(resp *fnpb.ProcessBundleSplitResponse) bool {
	if len(resp.GetChannelSplits()) != 1 || len(resp.GetPrimaryRoots())+len(resp.GetResidualRoots()) > 0 {
		return false
	}
	end := int64(len(in.Items))
	if in.cut > 0 {
		end = int64(in.cut - 1)
	}
	cs := resp.GetChannelSplits()[0]
	return cs.GetLastPrimaryElement() == end && cs.GetFirstResidualElement() == end+1
}

// narrow computes what a split leaves to the bundle and what it gives back.
// Indexes count the items as they were sent. Between the last primary and the
// first residual element there is at most one, which the roots are made of.
func (in *Input) narrow(resp *fnpb.ProcessBundleSplitResponse) (kept [][]byte, given []Residual, ok bool) {
	if len(resp.GetChannelSplits()) != 1 {
		return nil, nil, false
	}
	cs := resp.GetChannelSplits()[0]
	last, first := int(cs.GetLastPrimaryElement()), int(cs.GetFirstResidualElement())
	end := len(in.Items)
	if in.cut > 0 {
		end = in.cut - 1 // elements from here on were given back before
	}
	if last < -1 || first <= last || first > len(in.Items) {
		return nil, nil, false
	}
	roots := len(resp.GetPrimaryRoots()) + len(resp.GetResidualRoots())
	if first-last > 2 || (first-last == 2) != (roots > 0) {
		return nil, nil, false
	}
	if in.cut > 0 && first > end {
		return nil, nil, false // it works on what was given back; see checkRead
	}
	if in.cut > 0 && last >= in.whole {
		kept = in.pending // nothing before the earlier cut was touched
	} else {
		in.whole = last + 1
		kept = append(kept, in.Items[:in.whole]...)
		for _, p := range resp.GetPrimaryRoots() {
			kept = append(kept, p.GetElement())
		}
	}
	for _, d := range resp.GetResidualRoots() {
		given = append(given, residual(d))
	}
	for i := first; i < end; i++ {
		given = append(given, Residual{Element: in.Items[i], Untouched: true})
	}
	in.cut = min(end, first) + 1
	return kept, given, true
}

// Kept is what is left of Items after splits.
func (in *Input) Kept() [][]byte {
	if in.cut > 0 {
		return in.pending
	}
	return in.Items
}

// settle makes the noted primary the input of the next try.
func (in *Input) settle() {
	if in.cut > 0 {
		in.Items, in.pending, in.cut = in.pending, nil, 0
	}
}

func residual(d *fnpb.DelayedBundleApplication) Residual {
	r := Residual{
		Element: d.GetApplication().GetElement(), Delay: d.GetRequestedTimeDelay().AsDuration(),
		Watermark: element.MinTimestamp,
	}
	first := true
	for _, w := range d.GetApplication().GetOutputWatermarks() {
		at := element.Timestamp(w.AsTime().UnixMilli())
		if first || at < r.Watermark {
			r.Watermark, first = at, false
		}
	}
	return r
}

// A pacer says at which ticks a bundle is asked for its metrics.
type pacer struct {
	asked time.Time
	pause time.Duration
}

func (p *pacer) due(now time.Time) bool {
	if now.Sub(p.asked) < p.pause-progressEvery/2 {
		return false
	}
	p.asked, p.pause = now, min(2*p.pause, progressMost)
	return true
}

// progress reports the metrics of the running bundle. A worker that doesn't
// answer is no error here: the bundle's end tells.
func (r *Runner) progress(ctx context.Context, b *fnapi.Bundle) {
	if r.Attempted == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{})
	var ended sync.WaitGroup
	defer ended.Wait()
	defer close(answered)
	ended.Go(func() {
		select {
		case <-b.Done():
			cancel() // nobody waits for how far it is any more
		case <-answered:
		}
	})
	resp, err := b.Progress(ctx)
	if err != nil {
		return
	}
	set := new(metrics.Set)
	if r.addMetrics(ctx, set, resp.GetMonitoringInfos(), resp.GetMonitoringData()) == nil {
		r.Attempted(r.index, set)
	}
}
