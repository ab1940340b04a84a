package membudget

import "sync/atomic"

// A Share bounds what of a budget's memory is kept for later: what could be
// elsewhere, such as data that waits for its reader. It counts beside the
// budget, which whoever keeps something takes from, too.
type Share struct {
	budget *Budget
	most   int64
	used   atomic.Int64
}

// Share returns a share of at most so many bytes; 0 is half of the budget, as
// those who work need the rest.
func (b *Budget) Share(most int64) *Share {
	if most == 0 {
		most = b.Limit() / 2
	}
	return &Share{budget: b, most: most}
}

// Keep reports whether n bytes more may be kept, and counts them.
func (s *Share) Keep(n int64) bool {
	// Others must find something left in the budget, or each of them would
	// spill in crumbs because of what only waits.
	if s.budget.Used() > s.budget.Limit()/4*3 {
		return false
	}
	if s.used.Add(n) <= s.most {
		return true
	}
	s.used.Add(-n)
	return false
}

// Drop gives back what Keep counted.
func (s *Share) Drop(n int64) { s.used.Add(-n) }
