package task

import (
	"context"
	"errors"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/jobgraph"
	"trestle/runner/state"
	"trestle/runner/watermark"
)

// A stream is one task of a streaming job under way. One goroutine owns it,
// which takes what comes, runs what is ripe, and then says downstream how far
// it is. Nothing that a bundle does is seen before the bundle has committed, and
// the watermark that covers its output comes after it.
type stream struct {
	r    *run
	br   *bundle.Runner
	job  *streamJob
	seat *seat
	in   *inlet
	root streamRoot

	marks    *watermark.Tracker
	told     watermark.Mark
	received int64 // counted by the job, and not counted off
	sides    map[bundle.SideKey]*liveSide
	bySource []*liveSide // by source of the inlet; nil: a main input
	mains    int         // main inputs: the first sources

	due int // keys that hold nothing back because a time comes first

	batch       batchOut
	pace        pace
	behind      map[int]watermark.Mark // by main input: what counts when the batch is done
	blocked     []held                 // elements that wait for a side input
	blockedFrom element.Timestamp      // the least time of these, +inf if there are none
	state       *state.Keyed           // of a keyed stage, else nil

	draining <-chan struct{} // nil once it is known that the job drains
	lost     lost            // what was dropped, and is not told yet
}

// A streamRoot makes what the stage's transforms are given of what comes.
type streamRoot interface {
	// add takes whole elements.
	add(ctx context.Context, block []byte, count int) error
	// step does a part of what is ripe. It reports whether it found anything.
	step(ctx context.Context) (bool, error)
	// next is the processing time at which something will be ripe; +inf: never.
	next() element.Timestamp
	// empty reports whether nothing is kept that may still come out.
	empty() bool
	// trim puts on disk what memory can't hold. No bundle is under way.
	trim() error
	close() error
}

// held is an element that keeps the watermark back.
type held struct {
	elem []byte
	at   element.Timestamp
}

// stream runs the task to its end.
func (r *run) stream(ctx context.Context) (*Finished, error) {
	job := r.m.streamJob(r.spec.Job, r.prog.Stream.Stages, r.prog.Stream.Played)
	if r.prog.Stream.Played {
		for _, d := range r.dests {
			d.Before = job.begin
		}
	}
	s := &stream{r: r, job: job, draining: job.draining, sides: map[bundle.SideKey]*liveSide{}, behind: map[int]watermark.Mark{}, blockedFrom: element.MaxTimestamp, told: watermark.Start}
	s.br = r.bundles()
	defer s.br.Close()
	s.br.Loose = true
	s.br.NewState = s.newState
	s.br.CacheTokens = s.cacheTokens
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	defer s.in.close()
	defer s.closeSides()
	s.seat = job.join()
	defer job.leave(s.seat)
	if r, ok := s.root.(*restrictions); ok {
		r.pool.join(r)
	}
	s.received++
	err := s.run(ctx)
	if closed := s.closeState(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, err
	}
	return r.finish(ctx)
}

func (s *stream) run(ctx context.Context) error {
	if s.r.prog.Node.Root == jobgraph.RootTestStream {
		return s.play(ctx)
	}
	return s.loop(ctx)
}

// closeState forgets what the task knows of its keys.
func (s *stream) closeState() error {
	err := s.root.close()
	if s.state != nil {
		err = errors.Join(err, s.state.Close())
	}
	return err
}

// open begins to read all inputs.
func (s *stream) open(ctx context.Context) error {
	s.in = newInlet()
	for _, in := range channels(s.r.spec.Inputs) {
		rd, err := s.r.openInput(ctx, in)
		if err != nil {
			s.in.close()
			return err
		}
		s.in.read(rd)
		s.bySource = append(s.bySource, nil)
	}
	s.mains = len(s.bySource)
	s.marks = watermark.NewTracker(s.mains)
	if err := s.openSides(ctx); err != nil {
		s.in.close()
		return err
	}
	switch s.r.prog.Node.Root {
	case jobgraph.RootGroup:
		s.root = newGrouping(s)
	case jobgraph.RootKeyed:
		opt := state.Options{Budget: s.r.m.cfg.Budget, Declared: s.r.prog.States, PageBytes: statePage}
		s.state = state.NewKeyed(opt, s.r.m.store, s.r.keyGroup)
		s.root = newKeyed(s)
	case jobgraph.RootRestrictions:
		s.root = newRestrictions(s)
	default:
		s.root = passing{s}
	}
	return nil
}

// statePage is a page of user state, of which the last one of a bag is read and
// written with each access to a key that isn't in memory.
const statePage = 256 << 10

// loop works until all is done.
func (s *stream) loop(ctx context.Context) error {
	if s.r.prog.Node.Root == jobgraph.RootImpulse {
		in, _ := (&impulse{value: s.r.spec.Impulse}).next(ctx) // it can't fail
		if err := s.root.add(ctx, in.Chunks[0], 1); err != nil {
			return err
		}
	}
	for {
		if err := s.work(ctx); err != nil {
			return err
		}
		if err := s.tell(ctx); err != nil {
			return err
		}
		next := s.root.next()
		if next > s.job.time() { // else there is more to be done at once
			s.job.done(s.seat, s.received, next)
			s.received = 0
		}
		if s.told == watermark.End && s.in.open == 0 && s.idle() {
			return nil
		}
		if err := s.wait(ctx, next); err != nil {
			return err
		}
	}
}

// idle reports whether nothing is left to be done.
func (s *stream) idle() bool {
	return s.batch.count == 0 && len(s.blocked) == 0 && s.root.empty()
}

// work does all that can be done now.
func (s *stream) work(ctx context.Context) error {
	for {
		if err := s.root.trim(); err != nil {
			return err
		}
		if err := s.unblock(ctx); err != nil {
			return err
		}
		if s.batch.count > 0 {
			if err := s.flush(ctx); err != nil {
				return err
			}
			continue
		}
		s.advance()
		did, err := s.root.step(ctx)
		if err != nil {
			return err
		}
		if !did && s.batch.count == 0 {
			return nil
		}
	}
}

// lookAfterWorkers is how often a task that has nothing to do asks whether its
// workers can still be had.
const lookAfterWorkers = 3 * time.Second

// wait waits for what comes next, and takes all that is there.
func (s *stream) wait(ctx context.Context, next element.Timestamp) error {
	if next <= s.job.time() {
		return s.takeAll(ctx)
	}
	var ripe <-chan time.Time
	if !s.job.played && next < element.MaxTimestamp {
		t := time.NewTimer(time.Until(time.UnixMilli(int64(next))))
		defer t.Stop()
		ripe = t.C
	}
	look := time.NewTimer(lookAfterWorkers)
	defer look.Stop()
	select {
	case a := <-s.in.arrivals:
		if err := s.take(ctx, a); err != nil {
			return err
		}
	case <-look.C:
		// Who waits for nothing but its input would not hear of it.
		return s.r.m.cfg.Workers.Failed(s.r.spec.Job, s.r.prog.Stage.Environment)
	case <-s.seat.wake:
		s.received += s.job.moved(s.seat)
		return nil
	case <-s.draining:
		s.draining = nil
		return nil
	case <-ripe:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.takeAll(ctx)
}

// take takes what came.
func (s *stream) take(ctx context.Context, a arrival) error {
	if a.err != nil {
		return a.err
	}
	side := s.bySource[a.source]
	switch {
	case a.end:
		s.in.open--
		return nil
	case a.count > 0 && side != nil:
		s.received += int64(a.count)
		return side.add(a.elems)
	case a.count > 0:
		s.received += int64(a.count)
		if err := s.root.add(ctx, a.elems, a.count); err != nil {
			return err
		}
		return s.root.trim()
	}
	s.received++
	m, err := decodeMark(a.elems)
	if err != nil {
		return err
	}
	if side != nil {
		side.mark(a.source, m)
		return nil
	}
	// What came before it must be done before it counts.
	s.behind[a.source] = m
	if !s.job.played {
		return nil // what comes after it may be done before it counts, too
	}
	if err := s.unblock(ctx); err != nil {
		return err
	}
	for s.batch.count > 0 {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.advance()
	return nil
}

// advance has the newest marks count: all that came before them is done.
func (s *stream) advance() {
	for source, m := range s.behind {
		s.marks.Advance(source, m)
	}
	clear(s.behind)
}

// give hands elements to the next bundle, those that wait for no side input.
func (s *stream) give(elems []byte, count int) error {
	if len(s.sides) == 0 {
		s.batch.chunk = append(s.batch.chunk, elems...)
		s.batch.count += count
		return nil
	}
	var v coders.Value
	for len(elems) > 0 {
		var err error
		if elems, err = s.r.prog.Input.Next(elems, &v); err != nil {
			return err
		}
		ok, err := s.ready(&v)
		if err != nil {
			return err
		}
		if ok {
			s.batch.chunk = append(s.batch.chunk, v.Raw...)
			s.batch.count++
			continue
		}
		h := held{elem: append([]byte(nil), v.Raw...), at: v.Timestamp()}
		s.marks.Hold(h.at)
		s.blockedFrom = min(s.blockedFrom, h.at)
		s.blocked = append(s.blocked, h)
	}
	return nil
}

// unblock gives what waited for side inputs that are ready now.
func (s *stream) unblock(ctx context.Context) error {
	if err := s.mapWindows(ctx); err != nil {
		return err
	}
	if len(s.blocked) == 0 || !s.sidesChanged() {
		return nil
	}
	kept := s.blocked[:0]
	s.blockedFrom = element.MaxTimestamp
	var v coders.Value
	for _, h := range s.blocked {
		_, err := s.r.prog.Input.Next(h.elem, &v)
		ok := err == nil
		if ok {
			ok, _ = s.ready(&v) // it was asked before
		}
		if !ok {
			kept = append(kept, h)
			s.blockedFrom = min(s.blockedFrom, h.at)
			continue
		}
		s.marks.Release(h.at)
		s.batch.chunk = append(s.batch.chunk, h.elem...)
		s.batch.count++
	}
	clear(s.blocked[len(kept):])
	s.blocked = kept
	return nil
}

// bundle runs one bundle to its commit.
func (s *stream) bundle(ctx context.Context, in *bundle.Input) (*bundle.Result, error) {
	res, err := s.br.Run(ctx, in)
	s.br.Close()
	if err != nil {
		return nil, err
	}
	s.r.live.add(res)
	return res, nil
}

// tell says downstream how far the task is.
func (s *stream) tell(ctx context.Context) error {
	s.tellLost()
	settled := s.marks.Input()
	if r, ok := s.root.(*restrictions); ok {
		settled = min(settled, r.pool.bound(r))
	}
	m, _ := s.marks.Settle(settled)
	m.Idle = m.Idle && s.due == 0
	if m == watermark.End && !s.idle() {
		m.Watermark-- // something may come that holds nothing back
	}
	s.r.live.reach(Watermarks{Input: s.marks.Input(), Output: m.Watermark})
	if m == s.told {
		return nil
	}
	s.told = m
	s.freeSides()
	return s.sendMark(ctx, m)
}

// sendMark writes a mark behind all that was written.
func (s *stream) sendMark(ctx context.Context, m watermark.Mark) error {
	b := encodeMark(m)
	for _, o := range s.r.spec.Outputs {
		d := s.r.dests[o.Dataset]
		txn := d.Writer.Begin()
		for sub := range d.Subpartitions {
			if err := txn.Append(sub, b, 0); err != nil {
				txn.Abort()
				return err
			}
		}
		s.job.begin(int64(d.Subpartitions))
		if err := txn.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// passing is the root that hands on what comes.
type passing struct{ s *stream }

func (p passing) add(_ context.Context, block []byte, count int) error { return p.s.give(block, count) }
func (p passing) step(context.Context) (bool, error)                   { return false, nil }
func (p passing) next() element.Timestamp                              { return element.MaxTimestamp }
func (p passing) empty() bool                                          { return true }
func (p passing) trim() error                                          { return nil }
func (p passing) close() error                                         { return nil }
