// Package region types the edges of a job graph and groups its stages into
// pipeline regions.
//
// A pipelined dataset is read while it is written, a blocking one when all of
// it is there. Stages that hang together by pipelined datasets run together:
// they are a region. A region starts when the blocking datasets that it reads
// are complete, so Compute promises that none of them is written by the region
// itself, nor by one that waits for it: no region has a blocking edge inside,
// and the graph of regions is acyclic. Where the wish for pipelining would
// break this, edges are cut, that is, made blocking; regions are never merged.
//
// It also promises that the stages of a chain of pipelined pointwise edges can
// have one parallelism, for task i of one hands its output to task i of the
// next: each chain has one head, which decides for all. (Several heads are as
// good as one if each can have one task only: impulses, and stages that read
// nothing.)
//
// The rules, in this order, for bounded input:
//
//  1. Side inputs and the queues of restrictions are blocking in every mode, and
//     so is a dataset that several stages read: what is pipelined is read once.
//  2. PointwisePipelined wants all other pointwise datasets pipelined,
//     AllPipelined all other datasets, AllBlocking none.
//  3. Where chains with different heads meet in one stage (by a flatten), the
//     stage goes on with the chain of its first such input; the others are cut.
//  4. In AllPipelined, all-to-all datasets are taken in the graph's order as long
//     as there is a slot for each stage of the region; the others are cut. (Not
//     for each chain, whose stages can share one: rule 5 may divide a chain.)
//  5. Regions that would wait for one another, or one for itself, are a knot.
//     In a knot a stage is as late as the longest way to it, counted in blocking
//     datasets; a pipelined dataset to a later stage is cut. So a stage whose
//     side input depends on the producer of its main input starts a new region,
//     and nothing is cut that isn't in a knot.
//
// A graph that is streaming is one region, and all of it is pipelined.
//
// Compute takes time and memory linear in the graph (but for a heap that puts
// regions in order).
//
// When a region starts, and with what parallelism, is package schedule's.
package region

import (
	"fmt"
	"strconv"

	"trestle/internal/invariant"
	"trestle/runner/jobgraph"
)

// A Mode says which datasets may be read while they are written.
type Mode string

const (
	AllBlocking        Mode = "all-blocking"
	PointwisePipelined Mode = "pointwise-pipelined" // the default for bounded input
	AllPipelined       Mode = "all-pipelined"       // where the slots suffice
)

// ParseMode reads the value of the job option exchange_mode; "" is the default.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return PointwisePipelined, nil
	case AllBlocking, PointwisePipelined, AllPipelined:
		return m, nil
	}
	return "", fmt.Errorf("exchange_mode %q is not known; use %s, %s or %s", s, AllBlocking, PointwisePipelined, AllPipelined)
}

// Options say how regions are wanted. The zero value is PointwisePipelined.
type Options struct {
	Mode Mode
	// Slots bounds the regions of AllPipelined: none with an all-to-all dataset
	// inside has more stages, all of which run at the same time. 0 means no bound.
	Slots int
}

// Compute fills in every Dataset.Exchange, g.Regions, and the Region and Head of
// every stage. Stages must be in topological order.
func Compute(g *jobgraph.Graph, o Options) {
	if g.Streaming && len(g.Stages) > 0 {
		stream(g)
		return
	}
	w := newWork(g)
	w.wish(o.Mode)
	w.chains()
	if o.Mode == AllPipelined && o.Slots > 0 {
		w.fit(o.Slots)
	}
	w.untie()
	w.fill()
}

// A work is a graph in numbers: stages and datasets by their place.
type work struct {
	g       *jobgraph.Graph
	in      [][]int // datasets that a stage reads, in order of its inputs and side inputs
	out     [][]int // datasets that it writes
	from    []int   // stage that writes a dataset
	to      [][]int // stages that read it
	forward []bool  // whether it is pointwise
	piped   []bool  // whether it is pipelined; only ever cut after wish
	head    []int   // of each stage
}

func newWork(g *jobgraph.Graph) *work {
	w := &work{
		g:       g,
		in:      make([][]int, len(g.Stages)),
		out:     make([][]int, len(g.Stages)),
		head:    make([]int, len(g.Stages)),
		from:    make([]int, len(g.Datasets)),
		to:      make([][]int, len(g.Datasets)),
		forward: make([]bool, len(g.Datasets)),
		piped:   make([]bool, len(g.Datasets)),
	}
	stage := make(map[jobgraph.StageID]int, len(g.Stages))
	for i, s := range g.Stages {
		stage[s.ID] = i
	}
	dataset := make(map[jobgraph.DatasetID]int, len(g.Datasets))
	for i, d := range g.Datasets {
		dataset[d.ID] = i
		from, ok := stage[d.Producer]
		invariant.Check(ok, "dataset %s has no producer", d.ID)
		w.from[i] = from
		w.out[from] = append(w.out[from], i)
		w.forward[i] = !d.AllToAll()
	}
	for i, s := range g.Stages {
		for _, ids := range [][]jobgraph.DatasetID{s.Inputs, s.SideInputs} {
			for _, id := range ids {
				d, ok := dataset[id]
				invariant.Check(ok && w.from[d] < i, "stage %s reads %s, which nothing before it writes", s.ID, id)
				w.in[i] = append(w.in[i], d)
				w.to[d] = append(w.to[d], i)
			}
		}
	}
	return w
}

// wish applies rules 1 and 2.
func (w *work) wish(m Mode) {
	for d, ds := range w.g.Datasets {
		if m == AllBlocking || ds.Partitioning == jobgraph.Whole || len(w.to[d]) != 1 {
			continue
		}
		reader := w.g.Stages[w.to[d][0]]
		w.piped[d] = reader.Root != jobgraph.RootRestrictions && (w.forward[d] || m == AllPipelined)
	}
}

// fill writes down what was found.
func (w *work) fill() {
	for d, ds := range w.g.Datasets {
		ds.Exchange = jobgraph.Blocking
		if w.piped[d] {
			ds.Exchange = jobgraph.Pipelined
		}
	}
	sets := w.regions()
	order := w.topological(sets)
	rank := make([]int, len(w.g.Stages)) // of the region, by its first stage
	w.g.Regions = make([]*jobgraph.Region, len(order))
	for i, first := range order {
		rank[first] = i
		w.g.Regions[i] = &jobgraph.Region{ID: jobgraph.RegionID("r" + strconv.Itoa(i+1)), Pointwise: true}
	}
	for i, s := range w.g.Stages {
		r := w.g.Regions[rank[sets.find(i)]]
		r.Stages = append(r.Stages, s.ID)
		s.Region = r.ID
		s.Head = w.g.Stages[w.head[i]].ID
		for _, d := range w.out[i] {
			if w.piped[d] && !w.forward[d] {
				r.Pointwise = false
			}
		}
	}
}

// regions are the stages that hang together by pipelined datasets.
func (w *work) regions() *sets {
	s := newSets(len(w.g.Stages))
	for d, piped := range w.piped {
		if piped {
			s.union(w.from[d], w.to[d][0])
		}
	}
	return s
}
