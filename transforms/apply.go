// Package transforms rewrites a pipeline graph into the one that is run.
//
// A rewrite is a function from graph to graph that changes how a pipeline is
// computed and never what. Apply does all of them, in one order that is written
// down in one list. What Apply returns holds no splittable DoFn and no combine
// as a whole any more; every collection has a coder that the runner can cut;
// and what the runner groups or reshuffles has coders that agree on both sides.
//
// Rewrites are pure, and give new transforms and collections names that depend
// on the pipeline alone: fusing again must give the same stages.
//
// What the runner does with the graph is not decided here; see package fusion.
package transforms

import (
	"trestle/runner/graph"
)

// Options choose between rewrites. The zero value is good.
type Options struct {
	// NoLifting leaves combines as they were expanded by their SDK.
	NoLifting bool
}

// A rewrite makes a new graph. It may keep what it doesn't change.
type rewrite func(*graph.Graph, Options) (*graph.Graph, error)

// rewrites are done in this order. Coders come after all that makes
// collections, and transcoding after them, since it compares them.
var rewrites = []rewrite{
	testStreams,
	bounds,
	combines,
	stableInputs,
	splittables,
	wireCoders,
	transcoding,
}

// Apply gives the graph that is to be fused. It doesn't change g. The error
// joins a *graph.PipelineError for each thing that can't be run.
func Apply(g *graph.Graph, opts Options) (*graph.Graph, error) {
	for _, r := range rewrites {
		var err error
		if g, err = r(g, opts); err != nil {
			return nil, err
		}
	}
	return g, nil
}
