package task

import (
	"container/heap"

	"trestle/element"
	"trestle/runner/window"
)

// A sorter keeps the elements of transforms that require them in the order of
// their time. Each waits until the watermark says that none before it will come
// that isn't too late; what is too late then is dropped.
type sorter struct {
	s              *stream
	latenessMillis int64
	waiting        sortQueue
	seq            int
}

// A sorted is an element that waits.
type sorted struct {
	ripe element.Timestamp // the watermark that lets it go; in the order of at
	seq  int               // equal ones go in the order in which they came
	at   element.Timestamp
	elem []byte
}

// put takes an element. It is false for one that is too late.
func (q *sorter) put(elem []byte, at element.Timestamp) bool {
	due := window.Window{End: at + 1}.Expiry(q.latenessMillis)
	if window.Passed(q.s.marks.Input(), due) {
		return false
	}
	q.seq++
	q.s.marks.Hold(at)
	heap.Push(&q.waiting, sorted{ripe: window.Passing(due), seq: q.seq, at: at, elem: append([]byte(nil), elem...)})
	return true
}

// next is the watermark that lets the next element go; +inf if there is none.
func (q *sorter) next() element.Timestamp {
	if len(q.waiting) == 0 {
		return element.MaxTimestamp
	}
	return q.waiting[0].ripe
}

// give lets go of what is ripe at a watermark. It reports whether there was any.
func (q *sorter) give(watermark element.Timestamp) (bool, error) {
	limit := q.s.r.limits()
	did := false
	for len(q.waiting) > 0 && q.waiting[0].ripe <= watermark && q.s.batch.count < limit.count && int64(len(q.s.batch.chunk)) < limit.bytes {
		x := heap.Pop(&q.waiting).(sorted)
		q.s.marks.Release(x.at)
		if err := q.s.give(x.elem, 1); err != nil {
			return did, err
		}
		did = true
	}
	return did, nil
}

// sortQueue is a heap, the next to go first.
type sortQueue []sorted

func (q sortQueue) Len() int { return len(q) }
func (q sortQueue) Less(i, j int) bool {
	a, b := &q[i], &q[j]
	if a.at != b.at {
		return a.at < b.at
	}
	return a.seq < b.seq
}
func (q sortQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *sortQueue) Push(x any)   { *q = append(*q, x.(sorted)) }
func (q *sortQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = sorted{}
	*q = (*q)[:last]
	return x
}
