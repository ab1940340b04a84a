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
type restrictions struct {
	s     *stream
	items wakeHeap[*parkedItem]
	given []bundle.Residual // of splits of the bundle under way
}

// A parkedItem is a restriction that waits.
type parkedItem struct {
	elem []byte
	hold element.Timestamp
	slot wakeSlot[*parkedItem]
}

func newRestrictions(s *stream) *restrictions {
	r := &restrictions{s: s}
	s.br.Checkpoint = checkpointEvery
	s.br.StillHungry = func() bool { return false }
	s.br.GiveBack = func(_ [][]byte, rest []bundle.Residual) { r.given = append(r.given, rest...) }
	return r
}

func (r *restrictions) add(block []byte, count int) error { return r.s.give(block, count) }

// queue takes restrictions that nobody has begun.
func (r *restrictions) queue(block []byte) error {
	var v coders.Value
	for len(block) > 0 {
		var err error
		if block, err = r.s.r.prog.Input.Next(block, &v); err != nil {
			return err
		}
		r.park(v.Raw, v.Timestamp(), element.MinTimestamp)
	}
	return nil
}

func (r *restrictions) park(elem []byte, hold, at element.Timestamp) {
	x := &parkedItem{elem: elem, hold: hold}
	x.slot.item = x
	r.s.marks.Hold(hold)
	r.items.set(&x.slot, at, true)
}

func (r *restrictions) step(ctx context.Context) (bool, error) {
	now := r.s.job.time()
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
		r.park(rest.Element, hold, at)
	}
	for _, x := range took {
		r.s.marks.Release(x.hold)
	}
	// What has come meanwhile is looked at before the next is run.
	return false, nil
}

func (r *restrictions) next() element.Timestamp { return r.items.next() }
func (r *restrictions) empty() bool             { return len(r.items.items) == 0 }
