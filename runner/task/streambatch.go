package task

import (
	"context"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
)

// batchOut collects what the next bundle is given.
type batchOut struct {
	chunk []byte
	count int
}

// cut takes the first most elements off, or all if there are no more.
func (b *batchOut) cut(w *coders.Windowed, most int) (batchOut, error) {
	all := *b
	if all.count <= most {
		*b = batchOut{}
		return all, nil
	}
	rest := all.chunk
	var v coders.Value
	for range most {
		var err error
		if rest, err = w.Next(rest, &v); err != nil {
			return batchOut{}, err
		}
	}
	n := len(all.chunk) - len(rest)
	*b = batchOut{chunk: rest, count: all.count - most}
	return batchOut{chunk: all.chunk[:n:n], count: most}, nil
}

const (
	// A task that is behind its input makes bundles that take about bundleTime:
	// longer ones would be cheaper where keys come again, and shorter ones seen
	// earlier.
	bundleTime  = 10 * time.Second
	firstBundle = 10_000 // elements
	// It waits for more of its input for a lingerPart of what the last bundle took,
	// if that is as much as leastLinger.
	lingerPart  = 20
	leastLinger = 5 * time.Millisecond
)

// A pace is how many elements a bundle has at most, so that its worker takes
// about bundleTime; firstBundle at the beginning.
type pace struct {
	most int
	last time.Duration // took the last bundle
}

func (p *pace) limit() int {
	if p.most == 0 {
		return firstBundle
	}
	return p.most
}

// ran notes how long a bundle took.
func (p *pace) ran(count int, took time.Duration) {
	p.last = took
	switch {
	case took > bundleTime:
		p.most = max(1, int(float64(count)*bundleTime.Seconds()/took.Seconds()))
	case count >= p.limit():
		p.most = 2 * p.limit()
	}
}

// linger is how long the next bundle may wait for more elements: its producer may
// have been held up by the last one, and what each costs is less where they are
// many.
func (p *pace) linger() time.Duration {
	if d := min(p.last, bundleTime) / lingerPart; d >= leastLinger {
		return d
	}
	return 0
}

// limits are those of the next bundle.
func (s *stream) limits() limits {
	l := s.r.limits()
	l.count = min(l.count, s.pace.limit())
	return l
}

// takeAll takes what is there, up to a bundle. After a bundle that took long it
// waits a little for more.
func (s *stream) takeAll(ctx context.Context) error {
	limit := s.limits()
	var late <-chan time.Time
	if d := s.pace.linger(); d > 0 && s.batch.count > 0 && !s.job.played {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	for took := 0; took < int(limit.bytes) && s.batch.count < limit.count; {
		a, ok, err := s.arrival(ctx, late)
		if !ok || err != nil {
			return err
		}
		took += len(a.elems)
		if err := s.take(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

// arrival is what is there, or comes before late; ok is false if nothing is.
func (s *stream) arrival(ctx context.Context, late <-chan time.Time) (a arrival, ok bool, err error) {
	select {
	case a := <-s.in.arrivals:
		return a, true, nil
	default:
	}
	if late == nil {
		return a, false, nil
	}
	select {
	case a := <-s.in.arrivals:
		return a, true, nil
	case <-late:
		return a, false, nil
	case <-ctx.Done():
		return a, false, context.Cause(ctx)
	}
}

// flush runs a bundle of what was collected, or of the first part of that if it
// is more than a bundle may have.
func (s *stream) flush(ctx context.Context) error {
	if r, ok := s.root.(*restrictions); ok {
		b := s.batch
		s.batch = batchOut{}
		return r.queue(b.chunk)
	}
	most := s.limits().count
	if s.batch.count <= min(most*5/4, s.r.limits().count) {
		most = s.batch.count // a small rest isn't worth a bundle
	}
	b, err := s.batch.cut(s.r.prog.Input, most)
	if err != nil {
		return err
	}
	parts, err := s.r.split(&bundle.Input{Chunks: [][]byte{b.chunk}, Elements: b.count, Bytes: int64(len(b.chunk))})
	if err != nil {
		return err
	}
	took, err := s.bundles(ctx, parts)
	s.pace.ran(b.count, took)
	return err
}

// bundles runs bundles that share no key, at once, and applies the timers that
// they set when all have committed. It returns how long workers took for the
// longest.
func (s *stream) bundles(ctx context.Context, parts []*bundle.Input) (took time.Duration, err error) {
	began := element.Timestamp(time.Now().UnixMilli())
	results, err := s.br.RunApart(ctx, parts)
	s.br.Close()
	if err != nil {
		return 0, err
	}
	ended := element.Timestamp(time.Now().UnixMilli())
	for _, res := range results {
		if k, ok := s.root.(*keyed); ok {
			if err := k.timers.take(res.Timers, began, ended); err != nil {
				return 0, err
			}
		}
		took = max(took, res.Took)
		s.r.live.add(res)
	}
	return took, nil
}
