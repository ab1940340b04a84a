package fnapitest

import (
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// A Shape is what a bundle descriptor has that a Harness looks at.
type Shape struct {
	ID       string
	DataURL  string
	StateURL string
	Sources  []string
	Sinks    []string
	Families [][2]string // timer families: transform and family id
}

// Descriptor builds a bundle descriptor of that shape. It has neither
// collections nor coders.
func Descriptor(s Shape) *fnpb.ProcessBundleDescriptor {
	port := encode(&fnpb.RemoteGrpcPort{ApiServiceDescriptor: &pipepb.ApiServiceDescriptor{Url: s.DataURL}})
	transforms := make(map[string]*pipepb.PTransform)
	for _, id := range s.Sources {
		transforms[id] = &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: "beam:runner:source:v1", Payload: port}}
	}
	for _, id := range s.Sinks {
		transforms[id] = &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: "beam:runner:sink:v1", Payload: port}}
	}
	families := make(map[string]map[string]*pipepb.TimerFamilySpec)
	for _, f := range s.Families {
		if families[f[0]] == nil {
			families[f[0]] = make(map[string]*pipepb.TimerFamilySpec)
		}
		families[f[0]][f[1]] = &pipepb.TimerFamilySpec{}
	}
	for id, specs := range families {
		payload := encode(&pipepb.ParDoPayload{TimerFamilySpecs: specs})
		transforms[id] = &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: "beam:transform:pardo:v1", Payload: payload}}
	}
	return &fnpb.ProcessBundleDescriptor{
		Id:                        s.ID,
		Transforms:                transforms,
		StateApiServiceDescriptor: &pipepb.ApiServiceDescriptor{Url: s.StateURL},
		TimerApiServiceDescriptor: &pipepb.ApiServiceDescriptor{Url: s.DataURL},
	}
}

func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // messages that we have just built can be encoded
	}
	return b
}
