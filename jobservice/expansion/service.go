package expansion

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const urnSchemaTransform = "beam:expansion:payload:schematransform:v1"

// A Service answers expansion requests.
type Service struct {
	jobpb.UnimplementedExpansionServiceServer
	provider Provider
}

// New returns a service for the provider's transforms.
func New(p Provider) *Service { return &Service{provider: p} }

// Register adds the service to a server.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	jobpb.RegisterExpansionServiceServer(server, s)
}

// Expand expands one transform. What is wrong with it is in the response, as
// clients expect.
func (s *Service) Expand(ctx context.Context, r *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	response, err := s.expand(ctx, r)
	if err != nil {
		return &jobpb.ExpansionResponse{Error: fmt.Sprintf("transform %q: %v", r.GetTransform().GetUniqueName(), err)}, nil
	}
	return response, nil
}

func (s *Service) expand(ctx context.Context, r *jobpb.ExpansionRequest) (*jobpb.ExpansionResponse, error) {
	request, err := s.request(r)
	if err != nil {
		return nil, err
	}
	fragment, err := s.provider.Expand(ctx, request)
	if err != nil {
		return nil, err
	}
	return merge(r, fragment), nil
}

// request reads what a client wants.
func (s *Service) request(r *jobpb.ExpansionRequest) (Request, error) {
	spec := r.GetTransform().GetSpec()
	out := Request{URN: spec.GetUrn(), Inputs: map[string]string{}, Collections: map[string]string{}, Components: r.GetComponents()}
	for tag, id := range r.GetTransform().GetInputs() {
		c := r.GetComponents().GetPcollections()[id]
		if c == nil {
			return out, fmt.Errorf("input %q is not in the request", tag)
		}
		out.Inputs[tag], out.Collections[tag] = c.GetCoderId(), id
	}
	var schema *pipepb.Schema
	var row []byte
	if out.URN == urnSchemaTransform {
		var p pipepb.SchemaTransformPayload
		if err := proto.Unmarshal(spec.GetPayload(), &p); err != nil {
			return out, errors.New("the schema transform's payload is broken")
		}
		out.URN, schema, row = p.GetIdentifier(), p.GetConfigurationSchema(), p.GetConfigurationRow()
	} else {
		var p pipepb.ExternalConfigurationPayload
		if err := proto.Unmarshal(spec.GetPayload(), &p); err != nil {
			return out, errors.New("the payload is no external configuration")
		}
		schema, row = p.GetSchema(), p.GetPayload()
	}
	if !slices.Contains(s.provider.Transforms(), out.URN) && s.provider.SchemaTransforms()[out.URN].Config == nil {
		return out, fmt.Errorf("this expansion service has no %q; it has %s", out.URN, strings.Join(s.known(), ", "))
	}
	var err error
	if out.Config, err = DecodeRow(schema, row); err != nil {
		return out, fmt.Errorf("the configuration can't be read: %w", err)
	}
	return out, nil
}

func (s *Service) known() []string {
	return slices.Concat(s.provider.Transforms(), slices.Sorted(maps.Keys(s.provider.SchemaTransforms())))
}

// DiscoverSchemaTransform tells which schema transforms there are.
func (s *Service) DiscoverSchemaTransform(context.Context, *jobpb.DiscoverSchemaTransformRequest) (*jobpb.DiscoverSchemaTransformResponse, error) {
	out := &jobpb.DiscoverSchemaTransformResponse{SchemaTransformConfigs: map[string]*jobpb.SchemaTransformConfig{}}
	for id, t := range s.provider.SchemaTransforms() {
		out.SchemaTransformConfigs[id] = &jobpb.SchemaTransformConfig{
			ConfigSchema: t.Config, InputPcollectionNames: t.Inputs, OutputPcollectionNames: t.Outputs, Description: t.Description,
		}
	}
	return out, nil
}

// merge puts a fragment into the place of the transform that was asked for. The
// answer has the request's components, too: the client takes all it is given.
func merge(r *jobpb.ExpansionRequest, f Fragment) *jobpb.ExpansionResponse {
	m := merging{prefix: r.GetNamespace() + "trestle_", name: r.GetTransform().GetUniqueName(), given: map[string]string{}}
	for tag, id := range f.Inputs {
		// A transform with one input is content with whatever the client calls it.
		actual := r.GetTransform().GetInputs()[tag]
		if actual == "" && len(f.Inputs) == 1 {
			for _, one := range r.GetTransform().GetInputs() {
				actual = one
			}
		}
		m.given[id] = actual
	}
	out := &pipepb.Components{}
	proto.Merge(out, r.GetComponents()) // which may be missing
	roots := m.components(out, f.Pipeline)
	t := proto.Clone(r.GetTransform()).(*pipepb.PTransform)
	// Without the payload: it may hold secrets, and nobody needs it twice.
	t.Spec = &pipepb.FunctionSpec{Urn: r.GetTransform().GetSpec().GetUrn()}
	t.Subtransforms = roots
	t.EnvironmentId = ""
	asked := slices.Sorted(maps.Keys(t.GetOutputs()))
	t.Outputs = map[string]string{}
	for tag, id := range f.Outputs {
		if len(asked) == 1 && len(f.Outputs) == 1 {
			tag = asked[0]
		}
		t.Outputs[tag] = m.collection(id)
	}
	return &jobpb.ExpansionResponse{Components: out, Transform: t, Requirements: f.Pipeline.GetRequirements()}
}

// A merging renames what a fragment has.
type merging struct {
	prefix string
	name   string
	given  map[string]string // the client's collection for one of the fragment's
}

func (m *merging) id(id string) string { return m.prefix + id }

func (m *merging) collection(id string) string {
	if actual, ok := m.given[id]; ok {
		return actual
	}
	return m.id(id)
}

// components adds the fragment's and returns its root transforms.
func (m *merging) components(out *pipepb.Components, p *pipepb.Pipeline) (roots []string) {
	in := p.GetComponents()
	grow(&out.Transforms)
	grow(&out.Pcollections)
	grow(&out.Coders)
	grow(&out.WindowingStrategies)
	grow(&out.Environments)
	left := m.leftOut(in)
	for id, t := range in.GetTransforms() {
		if !left[id] {
			out.Transforms[m.id(id)] = m.transform(t, left)
		}
	}
	for id, c := range in.GetPcollections() {
		if _, ok := m.given[id]; ok {
			continue
		}
		c = proto.Clone(c).(*pipepb.PCollection)
		c.CoderId, c.WindowingStrategyId = m.id(c.GetCoderId()), m.id(c.GetWindowingStrategyId())
		c.UniqueName = m.id(id)
		out.Pcollections[m.id(id)] = c
	}
	for id, c := range in.GetCoders() {
		c = proto.Clone(c).(*pipepb.Coder)
		for i, part := range c.ComponentCoderIds {
			c.ComponentCoderIds[i] = m.id(part)
		}
		out.Coders[m.id(id)] = c
	}
	for id, w := range in.GetWindowingStrategies() {
		w = proto.Clone(w).(*pipepb.WindowingStrategy)
		w.WindowCoderId, w.EnvironmentId = m.id(w.GetWindowCoderId()), m.maybe(w.GetEnvironmentId())
		out.WindowingStrategies[m.id(id)] = w
	}
	for id, e := range in.GetEnvironments() {
		out.Environments[m.id(id)] = e
	}
	for _, id := range p.GetRootTransformIds() {
		if !left[id] {
			roots = append(roots, m.id(id))
		}
	}
	return roots
}

func grow[V any](m *map[string]V) {
	if *m == nil {
		*m = map[string]V{}
	}
}

func (m *merging) maybe(id string) string {
	if id == "" {
		return ""
	}
	return m.id(id)
}

// leftOut are the transforms that only make what the client gives.
func (m *merging) leftOut(in *pipepb.Components) map[string]bool {
	left := map[string]bool{}
	for again := true; again; {
		again = false
		for id, t := range in.GetTransforms() {
			if left[id] || len(t.GetOutputs()) == 0 {
				continue
			}
			needed := false
			for _, c := range t.GetOutputs() {
				if _, ok := m.given[c]; !ok && !onlyFor(in, c, left) {
					needed = true
				}
			}
			if !needed && len(m.given) > 0 {
				left[id], again = true, true
			}
		}
	}
	return left
}

// onlyFor reports whether a collection is read, and by transforms that are left
// out alone.
func onlyFor(in *pipepb.Components, collection string, left map[string]bool) bool {
	read := false
	for id, t := range in.GetTransforms() {
		for _, c := range t.GetInputs() {
			if c == collection {
				if !left[id] {
					return false
				}
				read = true
			}
		}
	}
	return read
}

func (m *merging) transform(t *pipepb.PTransform, left map[string]bool) *pipepb.PTransform {
	t = proto.Clone(t).(*pipepb.PTransform)
	t.UniqueName = m.name + "/" + t.GetUniqueName()
	t.EnvironmentId = m.maybe(t.GetEnvironmentId())
	t.Subtransforms = slices.DeleteFunc(t.GetSubtransforms(), func(id string) bool { return left[id] })
	for i, id := range t.Subtransforms {
		t.Subtransforms[i] = m.id(id)
	}
	for tag, id := range t.GetInputs() {
		t.Inputs[tag] = m.collection(id)
	}
	for tag, id := range t.GetOutputs() {
		t.Outputs[tag] = m.collection(id)
	}
	m.payload(t)
	return t
}

// payload renames the restriction coder, which is the only id in the payload of
// a ParDo without state.
func (m *merging) payload(t *pipepb.PTransform) {
	if t.GetSpec().GetUrn() != "beam:transform:pardo:v1" {
		return
	}
	var p pipepb.ParDoPayload
	if proto.Unmarshal(t.GetSpec().GetPayload(), &p) != nil || p.GetRestrictionCoderId() == "" {
		return
	}
	p.RestrictionCoderId = m.id(p.GetRestrictionCoderId())
	if data, err := proto.Marshal(&p); err == nil {
		t.Spec.Payload = data
	}
}
