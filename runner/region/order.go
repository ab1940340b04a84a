package region

import (
	"container/heap"

	"trestle/internal/invariant"
)

// none is the knot of a stage that is in no knot.
const none = -1

// knots numbers the knots and tells of each stage in which it is.
func (w *work) knots() []int {
	regions := w.regions()
	next := w.waiting(regions)
	component, size := components(next)
	tied := make([]bool, len(size))
	for v := range next {
		c := component[regions.find(v)]
		tied[c] = tied[c] || size[c] > 1
		for _, reader := range next[v] {
			tied[c] = tied[c] || reader == v
		}
	}
	knot := make([]int, len(w.g.Stages))
	for v := range knot {
		knot[v] = none
		if c := component[regions.find(v)]; tied[c] {
			knot[v] = c
		}
	}
	return knot
}

// waiting gives, for each region by its first stage, the regions that wait for
// it; itself, if it has a blocking dataset inside.
func (w *work) waiting(regions *sets) [][]int {
	next := make([][]int, len(w.g.Stages))
	for d, readers := range w.to {
		if w.piped[d] {
			continue
		}
		from := regions.find(w.from[d])
		for _, v := range readers {
			next[from] = append(next[from], regions.find(v))
		}
	}
	return next
}

// topological orders the regions, each by its first stage, so that none waits
// for a later one; ties in the order of first stages.
func (w *work) topological(regions *sets) []int {
	next := w.waiting(regions)
	waits := make([]int, len(next))
	for _, readers := range next {
		for _, r := range readers {
			waits[r]++
		}
	}
	var ready ints
	count := 0
	for v := range next {
		if regions.find(v) != v {
			continue
		}
		count++
		if waits[v] == 0 {
			ready = append(ready, v) // ascending, so a heap
		}
	}
	order := make([]int, 0, count)
	for len(ready) > 0 {
		v := heap.Pop(&ready).(int)
		order = append(order, v)
		for _, r := range next[v] {
			if waits[r]--; waits[r] == 0 {
				heap.Push(&ready, r)
			}
		}
	}
	invariant.Check(len(order) == count, "%d regions wait for one another", count-len(order))
	return order
}

// components finds the strongly connected components of a graph (Tarjan's way,
// with a stack of its own, for graphs are deep): the number of each node's, and
// how many nodes each has.
func components(next [][]int) (component, size []int) {
	type frame struct{ node, edge int }
	component = make([]int, len(next))
	seen := make([]int, len(next)) // order of discovery from 1; 0 is unseen
	low := make([]int, len(next))  // least discovered node that it reaches
	for v := range component {
		component[v] = none
	}
	var open []int // discovered, and in no component yet
	var path []frame
	discovered := 0
	enter := func(v int) {
		discovered++
		seen[v], low[v] = discovered, discovered
		open = append(open, v)
		path = append(path, frame{node: v})
	}
	for root := range next {
		if seen[root] == 0 {
			enter(root)
		}
		for len(path) > 0 {
			top := &path[len(path)-1]
			v := top.node
			if top.edge < len(next[v]) {
				to := next[v][top.edge]
				top.edge++
				if seen[to] == 0 {
					enter(to)
				} else if component[to] == none {
					low[v] = min(low[v], seen[to])
				}
				continue
			}
			path = path[:len(path)-1]
			if len(path) > 0 {
				up := path[len(path)-1].node
				low[up] = min(low[up], low[v])
			}
			if low[v] < seen[v] {
				continue
			}
			size = append(size, 0)
			for component[v] == none { // v is the last of its component on the stack
				last := open[len(open)-1]
				open = open[:len(open)-1]
				component[last] = len(size) - 1
				size[len(size)-1]++
			}
		}
	}
	return component, size
}

// sets are disjoint sets of numbers, each known by its least.
type sets struct{ parent []int }

func newSets(n int) *sets {
	s := &sets{parent: make([]int, n)}
	for i := range s.parent {
		s.parent[i] = i
	}
	return s
}

func (s *sets) find(i int) int {
	for s.parent[i] != i {
		s.parent[i] = s.parent[s.parent[i]]
		i = s.parent[i]
	}
	return i
}

func (s *sets) union(a, b int) {
	a, b = s.find(a), s.find(b)
	s.parent[max(a, b)] = min(a, b)
}

type ints []int

func (h ints) Len() int           { return len(h) }
func (h ints) Less(i, j int) bool { return h[i] < h[j] }
func (h ints) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ints) Push(v any)        { *h = append(*h, v.(int)) }
func (h *ints) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
