package catalog

import (
	"fmt"

	"trestle/runner/jobgraph"
)

// indexGraph checks that a graph is whole and indexes it. A graph comes from
// region.Compute, but by way of a disk.
func indexGraph(g *jobgraph.Graph) (*graphIndex, error) {
	if g == nil {
		return nil, fmt.Errorf("it has no graph")
	}
	x := &graphIndex{
		stages:   make(map[jobgraph.StageID]int, len(g.Stages)),
		datasets: make(map[jobgraph.DatasetID]int, len(g.Datasets)),
		regions:  make(map[jobgraph.RegionID]int, len(g.Regions)),
		regionOf: make([]int, len(g.Stages)),
	}
	for i, st := range g.Stages {
		if st == nil {
			return nil, fmt.Errorf("its stage %d is missing", i)
		}
		if _, twice := x.stages[st.ID]; twice {
			return nil, fmt.Errorf("it has two stages %s", st.ID)
		}
		x.stages[st.ID] = i
		x.regionOf[i] = -1
	}
	if err := x.addDatasets(g); err != nil {
		return nil, err
	}
	return x, x.addRegions(g)
}

func (x *graphIndex) addDatasets(g *jobgraph.Graph) error {
	for i, d := range g.Datasets {
		if d == nil {
			return fmt.Errorf("its dataset %d is missing", i)
		}
		if _, twice := x.datasets[d.ID]; twice {
			return fmt.Errorf("it has two datasets %s", d.ID)
		}
		x.datasets[d.ID] = i
		for _, id := range append([]jobgraph.StageID{d.Producer}, d.Consumers...) {
			if _, ok := x.stages[id]; !ok {
				return fmt.Errorf("dataset %s names stage %q, which there is not", d.ID, id)
			}
		}
	}
	for _, st := range g.Stages {
		for _, ids := range [][]jobgraph.DatasetID{st.Inputs, st.SideInputs, st.Outputs} {
			for _, id := range ids {
				if _, ok := x.datasets[id]; !ok {
					return fmt.Errorf("stage %s names dataset %q, which there is not", st.ID, id)
				}
			}
		}
	}
	return nil
}

func (x *graphIndex) addRegions(g *jobgraph.Graph) error {
	for i, r := range g.Regions {
		if r == nil {
			return fmt.Errorf("its region %d is missing", i)
		}
		if _, twice := x.regions[r.ID]; twice {
			return fmt.Errorf("it has two regions %s", r.ID)
		}
		x.regions[r.ID] = i
		for _, id := range r.Stages {
			at, ok := x.stages[id]
			if !ok || x.regionOf[at] >= 0 {
				return fmt.Errorf("region %s names stage %q, which there is not or which is in another", r.ID, id)
			}
			x.regionOf[at] = i
		}
	}
	for i, r := range x.regionOf {
		if r < 0 {
			return fmt.Errorf("its stage %s is in no region", g.Stages[i].ID)
		}
	}
	return nil
}
