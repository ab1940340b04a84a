package graph

import (
	"cmp"
	"container/heap"
	"slices"

	"trestle/internal/invariant"
)

// Sort puts the transforms of a rewritten graph into the fixed order and notes
// each collection's producer. It changes g and is for graphs under
// construction; the collections that it changes are replaced.
func (g *Graph) Sort() {
	rest := order(&g.Transforms)
	invariant.Check(rest == nil, "rewrite made a cycle through %v", rest)
	for _, t := range g.Transforms {
		for _, id := range t.Outputs {
			c := g.Collections[id]
			invariant.Check(c != nil, "output %s of %s is not a collection of the graph", id, t.ID)
			if c.Producer != t.ID {
				made := *c
				made.Producer = t.ID
				g.Collections[id] = &made
			}
		}
	}
}

// order sorts topologically, ties by id. It returns the transforms that stand
// on or behind a cycle, and then leaves ts alone.
func order(ts *[]*Transform) []*Transform {
	readers := map[CollectionID][]*Transform{}
	wait := map[*Transform]int{}
	produced := map[CollectionID]bool{}
	for _, t := range *ts {
		for _, c := range t.Outputs {
			produced[c] = true
		}
	}
	ready := &byID{}
	for _, t := range *ts {
		for _, c := range t.Reads() {
			if produced[c] {
				readers[c] = append(readers[c], t)
				wait[t]++
			}
		}
		if wait[t] == 0 {
			*ready = append(*ready, t)
		}
	}
	heap.Init(ready)
	out := make([]*Transform, 0, len(*ts))
	for ready.Len() > 0 {
		t := heap.Pop(ready).(*Transform)
		out = append(out, t)
		for _, c := range t.Outputs {
			for _, r := range readers[c] {
				if wait[r]--; wait[r] == 0 {
					heap.Push(ready, r)
				}
			}
			delete(readers, c) // a collection counts once, whoever claims to make it
		}
	}
	if len(out) == len(*ts) {
		*ts = out
		return nil
	}
	var rest []*Transform
	for _, t := range *ts {
		if wait[t] > 0 {
			rest = append(rest, t)
		}
	}
	slices.SortFunc(rest, func(a, b *Transform) int { return cmp.Compare(a.ID, b.ID) })
	return rest
}

// Reads lists what t reads, main inputs and then side inputs; a collection
// stands in it as often as it is read.
func (t *Transform) Reads() []CollectionID {
	in := slices.Clone(t.Inputs)
	for _, s := range t.SideInputs {
		in = append(in, s.Collection)
	}
	return in
}

// byID is a heap of transforms.
type byID []*Transform

func (h byID) Len() int           { return len(h) }
func (h byID) Less(i, j int) bool { return h[i].ID < h[j].ID }
func (h byID) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byID) Push(x any)        { *h = append(*h, x.(*Transform)) }
func (h *byID) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}
