package task

import (
	"container/heap"

	"trestle/element"
)

// A wakeHeap orders what waits for a time. An item stands in it once; its slot
// knows where.
type wakeHeap[T any] struct{ items []*wakeSlot[T] }

// A wakeSlot is an item's place in a wakeHeap. The zero value is in none.
type wakeSlot[T any] struct {
	item  T
	at    element.Timestamp
	place int // one more than the index; 0: not in the heap
}

// set puts the slot at a time, or takes it out at +inf unless keep is set.
func (h *wakeHeap[T]) set(s *wakeSlot[T], at element.Timestamp, in bool) {
	switch {
	case !in && s.place > 0:
		heap.Remove(h, s.place-1)
	case !in:
	case s.place == 0:
		s.at = at
		heap.Push(h, s)
	case s.at != at:
		s.at = at
		heap.Fix(h, s.place-1)
	}
}

// due is the first item if its time has come, else nil.
func (h *wakeHeap[T]) due(now element.Timestamp) *wakeSlot[T] {
	if len(h.items) == 0 || h.items[0].at > now {
		return nil
	}
	return h.items[0]
}

// takeDue takes out up to most items whose time has come.
func (h *wakeHeap[T]) takeDue(now element.Timestamp, most int) (took []T) {
	for len(took) < most {
		slot := h.due(now)
		if slot == nil {
			break
		}
		h.set(slot, 0, false)
		took = append(took, slot.item)
	}
	return took
}

// next is when the first item wants to be woken; +inf if there is none.
func (h *wakeHeap[T]) next() element.Timestamp {
	if len(h.items) == 0 {
		return element.MaxTimestamp
	}
	return h.items[0].at
}

func (h *wakeHeap[T]) Len() int           { return len(h.items) }
func (h *wakeHeap[T]) Less(i, j int) bool { return h.items[i].at < h.items[j].at }
func (h *wakeHeap[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].place, h.items[j].place = i+1, j+1
}
func (h *wakeHeap[T]) Push(x any) {
	s := x.(*wakeSlot[T])
	h.items = append(h.items, s)
	s.place = len(h.items)
}
func (h *wakeHeap[T]) Pop() any {
	s := h.items[len(h.items)-1]
	h.items = h.items[:len(h.items)-1]
	s.place = 0
	return s
}
