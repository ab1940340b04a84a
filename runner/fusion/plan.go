package fusion

import (
	"trestle/runner/jobgraph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Plan is all that is needed to run a job: the job graph that the scheduler
// reads, and under the same ids what each stage does. It is made once, stored
// with the job, and never made again: a later leader or version runs the plan
// that it finds.
type Plan struct {
	Graph  *jobgraph.Graph
	Stages map[jobgraph.StageID]*Stage
	// Components hold the transforms, collections, coders, windowing strategies
	// and environments that the stages name. Collections that cross between
	// worker and runner have wire coders already: every part that the runner
	// can't cut is length prefixed.
	Components *pipepb.Components
	// Declared maps those collections whose wire coder isn't the coder that SDKs
	// know them by to the latter; see graph.Collection.
	Declared map[string]string
}

// A Stage is how one stage of the job graph does its work.
type Stage struct {
	ID          jobgraph.StageID
	Environment string // id in Components; "" when there are no transforms
	// Collection is what the root hands to the transforms (or, where there are
	// none, to the outputs).
	Collection string
	// RootTransform is the Impulse, GroupByKey or Reshuffle that the root does,
	// or "". A GroupByKey's input collection is that of its proto, whatever the
	// collections of the datasets are called; their coders are equal.
	RootTransform string
	// Transforms are the fused chain, topological: ids in Components. They may
	// stand in other stages too (an unzipped flatten clones its consumers).
	Transforms []string
	SideInputs []SideInput
	// KeyedTransforms have user state or timers. All are in RootKeyed stages.
	KeyedTransforms []string
	// Outputs are the collections that leave the stage, one data sink each.
	Outputs []Output
	// Origins maps ids of Transforms that a rewrite made to the id in the
	// submitted pipeline by which metrics are told.
	Origins map[string]string
}

// An Output is a collection that leaves a stage.
type Output struct {
	Collection string
	Datasets   []jobgraph.DatasetID // at least one; they differ in partitioning
}

// A SideInput is read by one transform of the stage from the datasets that
// together hold the collection (several after a flatten).
type SideInput struct {
	Transform  string
	Tag        string
	Collection string
	Access     string
	Datasets   []jobgraph.DatasetID
}
