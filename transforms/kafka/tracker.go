package kafka

import (
	"fmt"
	"math"
	"sync"
)

// A Restriction is a piece of a range that one call reads.
type Restriction struct {
	Start, End int64
	// Seen is the greatest time of the records before Start, in milliseconds since
	// 1970, where the partition is read without an end. It is here and not with
	// the watermark, since the SDK looks at that some time before it splits.
	Seen int64
}

// unending is the End of what goes on as long as its partition does.
const unending = math.MaxInt64

// A tracker hands out the offsets of a restriction, many at a time, so that
// neither a lock nor an allocation goes with each record. What ends may be split
// at any offset that has not been handed out. What doesn't end is read in order by
// one at a time: it can be left off, for later, and not shared.
type tracker struct {
	mu      sync.Mutex
	rest    Restriction
	claimed int64 // all before it are handed out; rest.Start <= claimed <= rest.End
	seen    int64 // the greatest time of those
	known   int64 // where the partition ended when that was last told
	err     error
}

func newTracker(r Restriction) *tracker {
	return &tracker{rest: r, claimed: min(r.Start, r.End), seen: r.Seen}
}

// claim hands out the offsets before to, as far as the restriction goes, and
// returns up to where.
func (t *tracker) claim(to int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claimed = max(t.claimed, min(to, t.rest.End))
	return t.claimed
}

// claimAll hands out the offsets before to, whose times are not above seen, if none
// of them was split off; else those that are left. It returns up to where.
func (t *tracker) claimAll(to, seen int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if to <= t.rest.End {
		t.seen = max(t.seen, seen)
	}
	t.claimed = max(t.claimed, min(to, t.rest.End))
	return t.claimed
}

// TryClaim is claim as Beam has it: of one offset.
func (t *tracker) TryClaim(position any) bool {
	offset, ok := position.(int64)
	if !ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.err = fmt.Errorf("%T is not an offset", position)
		return false
	}
	return t.claim(offset+1) > offset
}

// GetError is what TryClaim couldn't return.
func (t *tracker) GetError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// TrySplit keeps a fraction of what is left.
func (t *tracker) TrySplit(fraction float64) (primary, residual any, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rest.End == unending && fraction > 0 {
		return t.rest, nil, nil
	}
	left := t.rest.End - t.claimed
	keep := int64(math.Ceil(min(max(fraction, 0), 1) * float64(left)))
	at := t.claimed + min(keep, left)
	if at >= t.rest.End {
		return t.rest, nil, nil
	}
	rest := Restriction{Start: at, End: t.rest.End, Seen: t.seen}
	t.rest.End = at
	return t.rest, rest, nil
}

// reaches tells where the partition ends now.
func (t *tracker) reaches(end int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = end
}

// GetProgress counts offsets. There is always something left of what doesn't end.
func (t *tracker) GetProgress() (done, remaining float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rest.End == unending {
		return float64(t.claimed - t.rest.Start), float64(max(t.known-t.claimed, 1))
	}
	return float64(t.claimed - t.rest.Start), float64(t.rest.End - t.claimed)
}

// IsDone reports whether all is handed out.
func (t *tracker) IsDone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err == nil && t.claimed >= t.rest.End
}

// GetRestriction is what is to be read, splits taken away.
func (t *tracker) GetRestriction() any {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rest
}

// IsBounded reports whether it ends.
func (t *tracker) IsBounded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rest.End != unending
}
