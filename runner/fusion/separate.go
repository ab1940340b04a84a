package fusion

import (
	"slices"
	"strconv"

	"trestle/runner/jobgraph"
)

// separate gives each reader of a dataset one of its own, for what is pipelined
// can be read once only. A stage that reads a dataset both as main input and as
// side input counts twice.
func (p *Plan) separate() {
	read := map[jobgraph.DatasetID]bool{}
	for _, s := range p.Graph.Stages {
		for _, ids := range []*[]jobgraph.DatasetID{&s.Inputs, &s.SideInputs} {
			for i, id := range *ids {
				if !read[id] {
					read[id] = true
					continue
				}
				own := p.duplicate(id, s.ID)
				(*ids)[i] = own
				if ids == &s.SideInputs {
					p.Stages[s.ID].rename(id, own)
				}
			}
		}
	}
}

// duplicate adds a dataset that is like another but for its one reader.
func (p *Plan) duplicate(id jobgraph.DatasetID, reader jobgraph.StageID) jobgraph.DatasetID {
	d := p.Graph.Dataset(id)
	own := *d
	own.ID = jobgraph.DatasetID("d" + strconv.Itoa(len(p.Graph.Datasets)+1))
	own.Consumers = []jobgraph.StageID{reader}
	if at := slices.Index(d.Consumers, reader); at >= 0 {
		d.Consumers = slices.Delete(slices.Clone(d.Consumers), at, at+1)
	}
	p.Graph.Datasets = append(p.Graph.Datasets, &own)
	producer := p.Graph.Stage(d.Producer)
	producer.Outputs = append(producer.Outputs, own.ID)
	outputs := p.Stages[d.Producer].Outputs
	for i := range outputs {
		if slices.Contains(outputs[i].Datasets, id) {
			outputs[i].Datasets = append(outputs[i].Datasets, own.ID)
		}
	}
	return own.ID
}

// rename has the stage's side inputs read another dataset.
func (s *Stage) rename(from, to jobgraph.DatasetID) {
	for i := range s.SideInputs {
		ids := s.SideInputs[i].Datasets
		if at := slices.Index(ids, from); at >= 0 {
			ids = slices.Clone(ids)
			ids[at] = to
			s.SideInputs[i].Datasets = ids
		}
	}
}
