package graph

import (
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// A bounded source begins with an Impulse whose one reader takes, as the
// element, the exact bounds of what it is to read. Elsewhere the element is
// empty, and the reader finds them out by itself; here it is done once for a
// job, so that whatever is tried again reads the same.
//
// Such a source is described by a FunctionSpec whose URN begins with URNBound
// and names the kind. It is the payload of the Impulse, or, where an SDK doesn't
// let a pipeline's author set that, an annotation of the Impulse's reader.
const (
	URNBound        = "trestle:bound_input:"
	AnnotationBound = "trestle:bound_input:v1"
)

// BoundOf is the description in an Impulse's payload; nil if there is none.
func BoundOf(impulse *pipepb.PTransform) *pipepb.FunctionSpec {
	return readBound(impulse.GetSpec().GetPayload())
}

// AnnotatedBound is the description that annotates an Impulse's reader; nil if
// there is none.
func AnnotatedBound(reader *pipepb.PTransform) *pipepb.FunctionSpec {
	return readBound(reader.GetAnnotations()[AnnotationBound])
}

// readBound takes what is no description for none: payloads of Impulses mean
// nothing to Beam, so that anything may be in one.
func readBound(payload []byte) *pipepb.FunctionSpec {
	var spec pipepb.FunctionSpec
	if len(payload) == 0 || proto.Unmarshal(payload, &spec) != nil || !strings.HasPrefix(spec.GetUrn(), URNBound) {
		return nil
	}
	return &spec
}
