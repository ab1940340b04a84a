package sim

import (
	"fmt"
	"slices"
	"time"

	"trestle/internal/sim"
	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A job is what its client knows of it.
type job struct {
	id        catalog.JobID
	graph     *jobgraph.Graph
	record    *catalog.JobAccepted
	keep      map[jobgraph.StageID]uint64   // of a thousand elements; for look-ups
	want      map[jobgraph.StageID][]uint64 // what comes out of each stage, sorted
	number    map[jobgraph.StageID]uint64
	accepted  bool // its client was told so
	stopAsked bool
	stopped   bool // its client was told that it will be cancelled
}

const impulses, elements = 16, 40

// mix makes one number of two, as good as random.
func mix(a, b uint64) uint64 {
	x := a*0x9e3779b97f4a7c15 ^ (b + 0x7f4a7c159e3779b9)
	x ^= x >> 31
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 29
	x *= 0x94d049bb133111eb
	return x ^ x>>32
}

func newJob(w *sim.World, id catalog.JobID) *job {
	j := &job{id: id, graph: drawGraph(w), keep: map[jobgraph.StageID]uint64{}, want: map[jobgraph.StageID][]uint64{}, number: map[jobgraph.StageID]uint64{}}
	j.record = &catalog.JobAccepted{
		Job: id, Name: string(id), Plan: "p", Graph: j.graph, KeyGroups: 8, Priority: w.Rand.IntN(3) - 1,
		Restart: catalog.RestartStrategy{Kind: catalog.RestartExponential, Delay: 100 * time.Millisecond, MaxDelay: time.Second, Factor: 2},
	}
	for i, st := range j.graph.Stages {
		j.number[st.ID] = uint64(i)
		if len(st.Inputs) == 0 {
			j.want[st.ID] = j.impulse(st.ID)
			continue
		}
		in := 0
		for _, d := range st.Inputs {
			in += len(j.want[j.graph.Dataset(d).Producer])
		}
		j.keep[st.ID] = uint64(min(1000, 1000*elements/max(in, 1)))
		for _, d := range st.Inputs {
			for _, e := range j.want[j.graph.Dataset(d).Producer] {
				if out, kept := j.through(st.ID, d, e); kept {
					j.want[st.ID] = append(j.want[st.ID], out)
				}
			}
		}
		slices.Sort(j.want[st.ID])
	}
	return j
}

// impulse is what a stage without input begins from.
func (j *job) impulse(id jobgraph.StageID) []uint64 {
	all := make([]uint64, impulses)
	for i := range all {
		all[i] = mix(j.number[id], uint64(i))
	}
	slices.Sort(all)
	return all
}

// through is what a stage makes of an element that it reads of a dataset, if
// it keeps it.
func (j *job) through(id jobgraph.StageID, d jobgraph.DatasetID, e uint64) (uint64, bool) {
	out := mix(mix(e, j.number[id]), uint64(len(d))<<8|uint64(d[len(d)-1]))
	return out, out%1000 < j.keep[id]
}

// drawGraph makes a graph whose regions are runs of neighbouring stages.
func drawGraph(w *sim.World) *jobgraph.Graph {
	g := &jobgraph.Graph{}
	var region *jobgraph.Region
	for i := range 1 + w.Rand.IntN(6) {
		st := &jobgraph.Stage{ID: jobgraph.StageID(fmt.Sprintf("s%d", i+1)), Root: jobgraph.RootImpulse}
		begin := len(g.Stages) // stages before it are of earlier regions
		if region != nil && w.Chance(0.4) {
			begin = len(g.Stages) - len(region.Stages)
			from := g.Stages[begin+w.Rand.IntN(len(g.Stages)-begin)]
			how := pick(w, jobgraph.Forward, jobgraph.Forward, jobgraph.Forward, jobgraph.ByKey, jobgraph.Spread)
			region.Pointwise = region.Pointwise && how == jobgraph.Forward
			st.Root = jobgraph.RootRead
			connect(g, from, st, how, jobgraph.Pipelined, false)
		} else {
			region = &jobgraph.Region{ID: jobgraph.RegionID(fmt.Sprintf("r%d", len(g.Regions)+1)), Pointwise: true}
			g.Regions = append(g.Regions, region)
		}
		region.Stages = append(region.Stages, st.ID)
		more := w.Rand.IntN(3)
		if st.Root == jobgraph.RootImpulse {
			more = max(more, w.Rand.IntN(2))
		}
		for range more {
			if begin == 0 {
				break
			}
			from := g.Stages[w.Rand.IntN(begin)]
			if w.Chance(0.25) {
				connect(g, from, st, jobgraph.Whole, jobgraph.Blocking, true)
				continue
			}
			if st.Root == jobgraph.RootImpulse {
				st.Root = pick(w, jobgraph.RootGroup, jobgraph.RootRead, jobgraph.RootRestrictions)
			}
			connect(g, from, st, pick(w, jobgraph.Forward, jobgraph.ByKey, jobgraph.Spread), jobgraph.Blocking, false)
		}
		st.Deterministic = w.Chance(0.3)
		g.Stages = append(g.Stages, st)
	}
	link(g)
	return g
}

func pick[T any](w *sim.World, from ...T) T { return from[w.Rand.IntN(len(from))] }

func connect(g *jobgraph.Graph, from, to *jobgraph.Stage, how jobgraph.Partitioning, ex jobgraph.Exchange, side bool) {
	d := &jobgraph.Dataset{ID: jobgraph.DatasetID(fmt.Sprintf("d%d", len(g.Datasets)+1)), Partitioning: how, Exchange: ex}
	g.Datasets = append(g.Datasets, d)
	from.Outputs = append(from.Outputs, d.ID)
	if side {
		to.SideInputs = append(to.SideInputs, d.ID)
	} else {
		to.Inputs = append(to.Inputs, d.ID)
	}
}

// link fills in the datasets' producers and consumers.
func link(g *jobgraph.Graph) {
	for _, st := range g.Stages {
		for _, id := range st.Outputs {
			g.Dataset(id).Producer = st.ID
		}
		for _, id := range slices.Concat(st.Inputs, st.SideInputs) {
			d := g.Dataset(id)
			d.Consumers = append(d.Consumers, st.ID)
		}
	}
}
