package jobservice

import (
	"context"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// DescribePipelineOptions tells the options that the runner reads, so that
// Python's client knows them and passes them on.
func (s *jobServer) DescribePipelineOptions(context.Context, *jobpb.DescribePipelineOptionsRequest) (*jobpb.DescribePipelineOptionsResponse, error) {
	out := &jobpb.DescribePipelineOptionsResponse{}
	for _, o := range options {
		out.Options = append(out.Options, &jobpb.PipelineOptionDescriptor{
			Name:         o.name,
			Type:         o.kind,
			Description:  o.help,
			DefaultValue: o.initial,
			Group:        "trestle",
		})
	}
	return out, nil
}
