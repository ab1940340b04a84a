package task

import (
	"context"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/watermark"
)

const (
	// checkpointEvery is how long a bundle of restrictions runs before what it
	// has done is committed, and slowCheckpoint how long at most if that is nothing.
	checkpointEvery = time.Second
	slowCheckpoint  = 10 * time.Second
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
	pool  *restrictionPool
	took  map[*byte]element.Timestamp // the bundle's restrictions, with what they hold
	hold  element.Timestamp           // the least of those
	rest  []bundle.Residual           // of the bundle under way, for when it is committed
	every time.Duration               // what s.br.Checkpoint should be

	// The pool's lock guards these.
	items wakeHeap[*parkedItem]
	floor watermark.Mark      // what the task could say downstream, were it alone
	said  element.Timestamp   // what it says: no more than any of the pool could
	busy  bool                // a bundle is under way
	waits bool                // there was nothing to begin
	gone  []element.Timestamp // holds of what others took

	hungry chan struct{} // of capacity 1: another task waits

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
	r := &restrictions{
		s: s, pool: s.job.restrictionPool(s.r.prog.Stage.ID), hungry: make(chan struct{}, 1), floor: watermark.Start, said: watermark.Start.Watermark,
	}
	if len(s.r.prog.SideInput) > 0 {
		// Its restrictions have waited for its own side inputs, and not for others'.
		r.pool = &restrictionPool{}
	}
	if s.br.Checkpoint = s.r.m.cfg.Plans.BundleTime(s.r.spec.Job); s.br.Checkpoint == 0 {
		s.br.Checkpoint = checkpointEvery
	}
	if s.r.prog.Stream.Ends {
		s.br.Hungry = r.hungry
	}
	s.br.StillHungry = func() bool { return r.pool.stillHungry(r) }
	r.every = s.br.Checkpoint
	s.br.GiveBack = func(_ [][]byte, rest []bundle.Residual) { r.giveBack(rest) }
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
		elems, err := apart(nil, r.s.r.prog.Input, &v)
		if err != nil {
			return err
		}
		for _, elem := range elems {
			x := r.item(elem, v.Timestamp())
			if r.draining && r.truncates != nil {
				r.whole = append(r.whole, x)
				continue
			}
			r.pool.put(r, x, element.MinTimestamp)
		}
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
			r.whole = r.pool.takeAll(r)
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
		r.pool.put(r, r.item(v.Raw, hold), element.MinTimestamp)
	}
	for _, x := range took {
		r.s.marks.Release(x.hold)
	}
	r.whole = r.whole[len(took):]
	return true, nil
}

func (r *restrictions) step(ctx context.Context) (bool, error) {
	now := r.s.job.time()
	drained := r.s.job.drained()
	if drained {
		now = element.MaxTimestamp // what was to be resumed later need not wait
		if did, err := r.drain(ctx); did || err != nil {
			return did, err
		}
	}
	took := r.pool.take(r, now, drained)
	if len(took) == 0 {
		r.release(nil)
		return false, nil
	}
	in := &bundle.Input{}
	r.took, r.hold = make(map[*byte]element.Timestamp, len(took)), element.MaxTimestamp
	for _, x := range took {
		r.took[&x.elem[0]], r.hold = x.hold, min(r.hold, x.hold)
		in.Items = append(in.Items, x.elem)
		in.Elements++
		in.Bytes += int64(len(x.elem))
	}
	began := time.Now()
	res, err := r.s.bundle(ctx, in)
	if err != nil {
		return false, err
	}
	r.s.br.Checkpoint = nextCheckpoint(r.every, r.s.br.Checkpoint, time.Since(began), res)
	r.park(append(r.rest, res.Residuals...))
	r.rest = nil
	r.release(took)
	// What has come meanwhile is looked at before the next is run.
	return false, nil
}

// nextCheckpoint is how long the next bundle may run, whose predecessor could
// run for now and took so long. One that gave nothing may have been cut off
// before it could begin, and would be again.
func nextCheckpoint(every, now, took time.Duration, res *bundle.Result) time.Duration {
	if res.OutElements > 0 || took < now {
		return every
	}
	return min(2*now, max(every, slowCheckpoint))
}

// giveBack takes what a split of the bundle under way gave. Where restrictions
// go on for ever the rest of one is begun only when what was read before it is
// committed: to begin there says that all before it has been read, and may be
// told to others.
func (r *restrictions) giveBack(rests []bundle.Residual) {
	if r.s.r.prog.Stream.Ends {
		r.park(rests)
		return
	}
	for _, rest := range rests {
		if rest.Untouched {
			r.park([]bundle.Residual{rest})
		} else {
			r.rest = append(r.rest, rest)
		}
	}
}

// park keeps what a bundle leaves over, until it may be resumed.
func (r *restrictions) park(rests []bundle.Residual) {
	for _, rest := range rests {
		hold := rest.Watermark
		if rest.Untouched {
			var ok bool
			if hold, ok = r.took[&rest.Element[0]]; !ok {
				hold = r.hold // a retry's items are what splits had left of others
			}
		}
		at := element.MinTimestamp
		if rest.Delay > 0 {
			at = r.s.job.time() + element.Timestamp(rest.Delay.Milliseconds())
		}
		r.pool.put(r, r.item(rest.Element, hold), at)
	}
}

// release lets go what a bundle's restrictions held, and those that other tasks
// took.
func (r *restrictions) release(took []*parkedItem) {
	for _, x := range took {
		r.s.marks.Release(x.hold)
	}
	for _, hold := range r.pool.rest(r) {
		r.s.marks.Release(hold)
	}
}

func (r *restrictions) next() element.Timestamp { return r.pool.next(r) }
func (r *restrictions) empty() bool             { return r.pool.empty(r) && len(r.whole) == 0 }
func (r *restrictions) trim() error             { return nil }

func (r *restrictions) close() error {
	r.pool.leave(r)
	return nil
}
