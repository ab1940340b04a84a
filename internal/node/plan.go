package node

import (
	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/region"
	"trestle/transforms"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// PlanOptions say how a pipeline is to be planned. The zero value is good.
type PlanOptions struct {
	Mode  region.Mode
	Slots int
	// Streaming runs a pipeline of bounded input as one of unbounded input.
	Streaming bool
}

// Plan makes the plan of a pipeline. The error joins all that is wrong with
// the pipeline, in its author's names.
func Plan(p *pipepb.Pipeline, o PlanOptions) (*fusion.Plan, error) {
	g, err := graph.FromProto(p)
	if err != nil {
		return nil, err
	}
	g.Streaming = g.Streaming || o.Streaming
	if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
		return nil, err
	}
	plan, err := fusion.Fuse(g, g.Components())
	if err != nil {
		return nil, err
	}
	region.Compute(plan.Graph, region.Options{Mode: o.Mode, Slots: o.Slots})
	return plan, nil
}
