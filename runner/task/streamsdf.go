package task

import (
	"context"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
)

const (
	// checkpointEvery is how long a bundle of restrictions runs before what it
	// has done is committed.
	checkpointEvery = time.Second
	// mostItems is how many restrictions are in a bundle.
	mostItems = 64
)

// restrictions is the root of a splittable DoFn: what is left of a restriction
// waits here until it may be resumed, and holds the watermark where the SDK
// said that it is.
//
// When the job drains, each restriction is truncated before it goes on, once;
// how much is left of it then is for its DoFn to say.
type restrictions struct {
	s     *stream
	items wakeHeap[*parkedItem]
	given []bundle.Residual // of splits of the bundle under way

	truncates *bundle.Runner
	draining  bool
	whole     []*parkedItem // once draining: those that are to be truncated
}

// A parkedItem is a restriction that waits.
type parkedItem struct {
	elem []byte
	hold element.Timestamp
	slot wakeSlot[*parkedItem]
}

func newRestrictions(s *stream) *restrictions {
	r := &restrictions{s: s}
	if s.br.Checkpoint = s.r.m.cfg.Plans.BundleTime(s.r.spec.Job); s.br.Checkpoint == 0 {
		s.br.Checkpoint = checkpointEvery
	}
	s.br.StillHungry = func() bool { return false }
	s.br.GiveBack = func(_ [][]byte, rest []bundle.Residual) { r.given = append(r.given, rest...) }
	if a := s.r.prog.Stream.Truncate; a != nil {
		r.truncates = a.Runner(s.br, s.r.acquire)
	}
	return r
}

func (r *restrictions) add(_ context.Context, block []byte, count int) error {
	return r.s.give(block, count)
}

// queue takes restrictions that nobody has begun.
func (r *restrictions) queue(block []byte) error {
	var v coders.Value
	for len(block) > 0 {
		var err error
		if block, err = r.s.r.prog.Input.Next(block, &v); err != nil {
			return err
		}
		x := r.item(v.Raw, v.Timestamp())
		if r.draining && r.truncates != nil {
			r.whole = append(r.whole, x)
			continue
		}
		r.items.set(&x.slot, element.MinTimestamp, true)
	}
	return nil
}

// item is a restriction that waits, and holds the watermark.
func (r *restrictions) item(elem []byte, hold element.Timestamp) *parkedItem {
	x := &parkedItem{elem: elem, hold: hold}
	x.slot.item = x
	r.s.marks.Hold(hold)
	return x
}

// drain truncates some of the restrictions that are still whole. It reports
// whether there were any.
func (r *restrictions) drain(ctx context.Context) (bool, error) {
	if !r.draining {
		r.draining = true
		if r.truncates != nil {
			for _, slot := range r.items.items {
				r.whole = append(r.whole, slot.item)
			}
			r.items = wakeHeap[*parkedItem]{}
		}
	}
	if len(r.whole) == 0 {
		return false, nil
	}
	took := r.whole[:min(len(r.whole), mostItems)]
	in, hold := &bundle.Input{}, element.MaxTimestamp
	for _, x := range took {
		in.Chunks = append(in.Chunks, x.elem)
		in.Elements++
		in.Bytes += int64(len(x.elem))
		hold = min(hold, x.hold)
	}
	res, err := r.truncates.Run(ctx, in)
	if err != nil {
		return false, err
	}
	var v coders.Value
	for block := res.Kept; len(block) > 0; {
		if block, err = r.s.r.prog.Input.Next(block, &v); err != nil {
			return false, err
		}
		x := r.item(v.Raw, hold)
		r.items.set(&x.slot, element.MinTimestamp, true)
	}
	for _, x := range took {
		r.s.marks.Release(x.hold)
	}
	r.whole = r.whole[len(took):]
	return true, nil
}

func (r *restrictions) step(ctx context.Context) (bool, error) {
	now := r.s.job.time()
	if r.s.job.drained() {
		now = element.MaxTimestamp // what was to be resumed later need not wait
		if did, err := r.drain(ctx); did || err != nil {
			return did, err
		}
	}
	in := &bundle.Input{}
	var took []*parkedItem
	holds := map[*byte]element.Timestamp{}
	for len(took) < mostItems {
		slot := r.items.due(now)
		if slot == nil {
			break
		}
		x := slot.item
		r.items.set(slot, 0, false)
		took = append(took, x)
		holds[&x.elem[0]] = x.hold
		in.Items = append(in.Items, x.elem)
		in.Elements++
		in.Bytes += int64(len(x.elem))
	}
	if len(took) == 0 {
		return false, nil
	}
	r.given = nil
	res, err := r.s.bundle(ctx, in)
	if err != nil {
		return false, err
	}
	for _, rest := range append(r.given, res.Residuals...) {
		hold := rest.Watermark
		if rest.Untouched {
			hold = holds[&rest.Element[0]]
		}
		at := element.MinTimestamp
		if rest.Delay > 0 {
			at = r.s.job.time() + element.Timestamp(rest.Delay.Milliseconds())
		}
		x := r.item(rest.Element, hold)
		r.items.set(&x.slot, at, true)
	}
	for _, x := range took {
		r.s.marks.Release(x.hold)
	}
	// What has come meanwhile is looked at before the next is run.
	return false, nil
}

func (r *restrictions) next() element.Timestamp { return r.items.next() }
func (r *restrictions) empty() bool             { return len(r.items.items) == 0 && len(r.whole) == 0 }
func (r *restrictions) trim() error             { return nil }
func (r *restrictions) close() error            { return nil }
