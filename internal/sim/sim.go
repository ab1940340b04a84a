// Package sim is a world in one goroutine: its clock, its chance, and what is
// to happen in it.
//
// Whatever is simulated puts functions into the world's future; the world calls
// them one at a time, in the order of their times. A seed and a commit fix the
// whole run, so a failure that was seen once can be seen again. What runs in a
// world starts no goroutine, looks at no other clock, and never ranges over a
// map to decide something.
//
// What happens in the world is its users' business.
package sim

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// A World is not safe for concurrent use.
type World struct {
	Now  time.Duration // since the world began; never falls
	Rand *rand.Rand

	seq  uint64
	todo queue
}

// New returns a world in which nothing is to happen yet.
func New(seed uint64) *World {
	return &World{Rand: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
}

// After runs f once, d from now.
func (w *World) After(d time.Duration, f func()) {
	w.seq++ // equal times keep their order of arrival
	heap.Push(&w.todo, item{w.Now + max(d, 0), w.seq, f})
}

// RunUntil lets things happen until done says that it is enough, which is
// asked after each, nothing is left to happen, or the time has come. It reports
// whether done said so.
func (w *World) RunUntil(done func() bool, end time.Duration) bool {
	for !done() {
		if len(w.todo) == 0 || w.todo[0].at > end {
			w.Now = max(w.Now, end)
			return false
		}
		next := heap.Pop(&w.todo).(item)
		w.Now = next.at
		next.f()
	}
	return true
}

// Between is a random time from lo to hi.
func (w *World) Between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.Rand.Int64N(int64(hi-lo)+1))
}

// Chance is true with that probability.
func (w *World) Chance(p float64) bool { return p > 0 && w.Rand.Float64() < p }

type item struct {
	at  time.Duration
	seq uint64
	f   func()
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	(*q)[last] = item{}
	*q = (*q)[:last]
	return x
}
