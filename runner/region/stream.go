package region

import "trestle/runner/jobgraph"

// stream is Compute for a graph that runs while its input is unbounded: all is
// pipelined, so all that hangs together runs together, and what doesn't shares
// the job's clock.
func stream(g *jobgraph.Graph) {
	r := &jobgraph.Region{ID: "r1"}
	for _, d := range g.Datasets {
		d.Exchange = jobgraph.Pipelined
	}
	for _, s := range g.Stages {
		s.Region, s.Head = r.ID, g.Stages[0].ID
		r.Stages = append(r.Stages, s.ID)
	}
	g.Regions = []*jobgraph.Region{r}
}
