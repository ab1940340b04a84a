// Package expansion is Beam's expansion service: what SDKs ask for transforms
// that are written in another language.
//
// It reads the configuration that a wrapper sent, by the names of its fields,
// since each SDK's wrapper sends others; has the transform built by whoever
// provides it; and answers with components that the client's pipeline can take
// over: ids are in the client's namespace, inputs are the client's collections.
//
// What the transforms do, and which there are, is not decided here: see
// Provider.
package expansion

import (
	"context"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Request is one transform to be expanded.
type Request struct {
	// URN names the transform; of a schema transform it is the identifier.
	URN    string
	Config Row
	// Inputs are the coders of what goes in, by tag, and Collections what goes in;
	// what they consist of is in Components.
	Inputs      map[string]string
	Collections map[string]string
	Components  *pipepb.Components
}

// A Fragment is a transform that was built, as a pipeline of its own.
type Fragment struct {
	Pipeline *pipepb.Pipeline
	// Inputs are collections of the pipeline that stand for what goes in, by tag.
	// Whoever makes them in the pipeline is left out.
	Inputs map[string]string
	// Outputs are collections of the pipeline, by tag.
	Outputs map[string]string
}

// A Provider builds transforms.
type Provider interface {
	// Transforms are the URNs that Expand knows.
	Transforms() []string
	// Expand builds a transform. Its error is for the author of the pipeline.
	Expand(ctx context.Context, r Request) (Fragment, error)
	// SchemaTransforms are those that are configured by a row of a known schema, by
	// identifier.
	SchemaTransforms() map[string]SchemaTransform
}

// A SchemaTransform is told to clients that look for one.
type SchemaTransform struct {
	Config          *pipepb.Schema
	Inputs, Outputs []string
	Description     string
}
