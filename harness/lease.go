package harness

import (
	"context"
	"strings"
)

// A Lease is the use of one lane of one worker.
type Lease struct {
	// Worker is what Endpoints.Admit returned.
	Worker Worker
	// Lane is different for all leases of the worker at one time: 0, 1, 2, …
	Lane int

	fleet *fleet
	stint *stint // nil once released
}

// Release gives the lane back. Releasing twice, or a nil lease, does nothing.
func (l *Lease) Release() {
	if l == nil {
		return
	}
	l.fleet.pool.mu.Lock()
	defer l.fleet.pool.mu.Unlock()
	if l.stint != nil {
		l.fleet.release(l.stint, l.Lane)
		l.stint = nil
	}
}

// A stint is the time of one worker, from its connection to its loss.
type stint struct {
	worker Worker
	gone   chan struct{} // closed when nothing is left of the worker

	// Guarded by Pool.mu.
	lanes  []bool // taken ones
	taken  int    // how many
	useful bool   // a lease of it was released while it lived: it is not dying of its start

	obituary string // set before gone is closed
}

// free returns a lane that nobody has, or -1.
func (s *stint) free() int {
	select {
	case <-s.worker.Lost():
		return -1
	default:
	}
	for lane, taken := range s.lanes {
		if !taken {
			return lane
		}
	}
	return -1
}

// Obituary tells what is known of the death of the lease's worker: its exit
// status and the last that it wrote. It waits for the death, or ctx; "" if the
// worker lives or nothing is known. Call it before Release.
func (l *Lease) Obituary(ctx context.Context) string {
	select {
	case <-l.stint.gone:
		return strings.TrimSpace(l.stint.obituary)
	case <-ctx.Done():
		return ""
	}
}
