package kafka

import (
	"cmp"
	"sync/atomic"
	"time"
)

// An Estimate is what is known of the event times that a partition will still
// have, between two readings of it. Times are in milliseconds since 1970.
type Estimate struct {
	At    int64 // what comes is not earlier, as far as the policy can tell
	Quiet int64 // since when the partition has had nothing new
}

// An estimator is a partition's watermark. One goroutine moves it, and any may
// read it; it never falls.
type estimator struct{ at, quiet atomic.Int64 }

func newEstimator(e Estimate) *estimator {
	var m estimator
	m.at.Store(e.At)
	m.quiet.Store(e.Quiet)
	return &m
}

// CurrentWatermark is the estimate as Beam has it.
func (e *estimator) CurrentWatermark() time.Time { return time.UnixMilli(e.at.Load()) }

func (e *estimator) state() Estimate { return Estimate{At: e.at.Load(), Quiet: e.quiet.Load()} }

func (e *estimator) raise(to int64) {
	if to > e.at.Load() {
		e.at.Store(to)
	}
}

// A Policy says what the event times of records are, and how the watermark
// follows them.
type Policy struct {
	Stamp Stamp `json:"stamp"`
	// MaxDelay is by how much a record's CreateTime may lie behind the greatest
	// before it in its partition. What lies further behind may be late.
	MaxDelay time.Duration `json:"max_delay,omitempty"`
	// IdleAfter is how long a partition that has nothing new holds the watermark
	// under CreateTime. Later its watermark follows the clock, this far behind it
	// (and MaxDelay further). 30 s if 0; negative: it holds the watermark for ever.
	IdleAfter time.Duration `json:"idle_after,omitempty"`
}

const (
	defaultIdle = 30 * time.Second
	// logBehind is how far behind the clock the watermark of a partition is that
	// has nothing new, where the broker sets the times: its clock is another one.
	logBehind = 2 * time.Second
)

// stamp is the time of a record that was read now, and moves the watermark.
func (p Policy) stamp(e *estimator, r *Record, now int64) (int64, error) {
	if p.Stamp == ByProcessing {
		e.raise(now)
		return e.at.Load(), nil
	}
	at, err := recordTime(p.Stamp, r)
	if err != nil {
		return 0, err
	}
	p.seen(e, at, now)
	return at, nil
}

// seen moves the watermark for the time of a record that was read; 0 is none.
func (p Policy) seen(e *estimator, at, now int64) {
	if at <= 0 || p.Stamp == ByProcessing {
		return
	}
	// A time to come is some clock's mistake: let it not make all others late.
	at = min(at, now)
	if p.Stamp == ByCreate {
		at -= p.MaxDelay.Milliseconds()
	}
	e.raise(at)
}

// rest moves the watermark of a partition after a slice, of which some records
// were read, and after which nothing more was there, when that was asked last, if
// it was caught up. Now is when that was.
func (p Policy) rest(e *estimator, some, caughtUp bool, now int64) {
	if some || !caughtUp || e.quiet.Load() == 0 {
		e.quiet.Store(now)
	}
	switch {
	case p.Stamp == ByProcessing:
		e.raise(now) // what comes is stamped when it is read
	case !caughtUp:
	case p.Stamp == ByLog:
		e.raise(now - logBehind.Milliseconds())
	default:
		idle := cmp.Or(p.IdleAfter, defaultIdle).Milliseconds()
		if p.IdleAfter >= 0 && now-e.quiet.Load() >= idle {
			e.raise(now - idle - p.MaxDelay.Milliseconds())
		}
	}
}
