package watermark

import (
	"container/heap"

	"trestle/element"
	"trestle/internal/invariant"
)

// Holds is a multiset of times of which only the least matters. The zero value
// is empty and ready for use. Adding and removing take logarithmic time in the
// number of different times.
type Holds struct {
	count map[element.Timestamp]int // >= 0; has exactly the times of heap
	heap  times                     // the top is held; others may have been removed
	live  int                       // times that are held
}

// Add adds a hold.
func (h *Holds) Add(at element.Timestamp) {
	if h.count == nil {
		h.count = make(map[element.Timestamp]int)
	}
	n, known := h.count[at]
	if !known {
		heap.Push(&h.heap, at)
	}
	if n == 0 {
		h.live++
	}
	h.count[at] = n + 1
}

// Remove removes one of the holds at a time. There must be one.
func (h *Holds) Remove(at element.Timestamp) {
	n := h.count[at]
	invariant.Check(n > 0, "a hold at %s is removed that was not set", at)
	h.count[at] = n - 1
	if n > 1 {
		return
	}
	h.live--
	// Those below the top are forgotten when they get there, or when they are
	// most of all.
	for len(h.heap) > 0 && h.count[h.heap[0]] == 0 {
		delete(h.count, h.heap[0])
		heap.Pop(&h.heap)
	}
	if len(h.heap) > worthwhile && len(h.heap) > 2*h.live {
		h.compact()
	}
}

// worthwhile is how many times there must be before forgetting some pays.
const worthwhile = 64

// compact forgets the times that aren't held.
func (h *Holds) compact() {
	kept := h.heap[:0]
	for _, at := range h.heap {
		if h.count[at] > 0 {
			kept = append(kept, at)
		} else {
			delete(h.count, at)
		}
	}
	h.heap = kept
	heap.Init(&h.heap)
}

// Least is the least hold, or +inf if there is none.
func (h *Holds) Least() element.Timestamp {
	if len(h.heap) == 0 {
		return element.MaxTimestamp
	}
	return h.heap[0]
}

// times is a heap, the least at the top.
type times []element.Timestamp

func (t times) Len() int           { return len(t) }
func (t times) Less(i, j int) bool { return t[i] < t[j] }
func (t times) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *times) Push(x any)        { *t = append(*t, x.(element.Timestamp)) }
func (t *times) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}
