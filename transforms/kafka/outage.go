package kafka

import (
	"sync"
	"time"
)

// A place is a partition of a cluster.
type place struct {
	servers, topic string
	partition      int32
}

// mostPlaces bounds what a process remembers of partitions that nobody may read
// any more. To forget the others with them costs little.
const mostPlaces = 100_000

// outages are the partitions that could not be read lately. They are the process'
// and not a reader's: a bundle that fails for them has its reader thrown away.
var outages outageTable

type outageTable struct {
	mu sync.Mutex
	at map[place]outage
}

// An outage is some time in which a partition could not be read.
type outage struct{ since, last time.Time }

// outageGap is after how long without a failure another one is a new outage,
// beside the time that a call may take: nobody may have tried meanwhile.
const outageGap = 15 * time.Second

// lasts notes a failure, and tells for how long there have been some.
func (t *outageTable) lasts(p place, call time.Duration) time.Duration {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.at[p]
	if o.since.IsZero() || now.Sub(o.last) > outageGap+call {
		o.since = now
	}
	o.last = now
	if t.at == nil || len(t.at) >= mostPlaces {
		t.at = map[place]outage{}
	}
	t.at[p] = o
	return now.Sub(o.since)
}

// over forgets the failures of a partition that was read.
func (t *outageTable) over(p place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.at, p)
}
