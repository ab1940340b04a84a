package fusion

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"trestle/runner/jobgraph"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// stored is a plan as it is written down: stages in the graph's order, so that
// equal plans are equal bytes.
type stored struct {
	Graph      *jobgraph.Graph   `json:"graph"`
	Stages     []*Stage          `json:"stages"`
	Declared   map[string]string `json:"declared,omitempty"`
	Components []byte            `json:"components"` // a Components proto, base64 in JSON
}

// MarshalJSON writes all of the plan. Equal plans give equal bytes, within one
// version of Trestle: later versions may write protos in another way.
func (p *Plan) MarshalJSON() ([]byte, error) {
	s := stored{Graph: p.Graph, Declared: p.Declared}
	for _, v := range p.Graph.Stages {
		s.Stages = append(s.Stages, p.Stages[v.ID])
	}
	var err error
	s.Components, err = proto.MarshalOptions{Deterministic: true}.Marshal(p.Components)
	if err != nil {
		return nil, fmt.Errorf("marshal plan: %w", err)
	}
	return json.Marshal(s)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (p *Plan) UnmarshalJSON(data []byte) error {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("unmarshal plan: %w", err)
	}
	if s.Graph == nil || len(s.Graph.Stages) != len(s.Stages) {
		return fmt.Errorf("unmarshal plan: graph and stages don't belong together")
	}
	stages := make(map[jobgraph.StageID]*Stage, len(s.Stages))
	for i, stage := range s.Stages {
		if s.Graph.Stages[i] == nil || stage == nil || s.Graph.Stages[i].ID != stage.ID {
			return fmt.Errorf("unmarshal plan: stage %d of the graph isn't stage %d of the plan", i+1, i+1)
		}
		stages[stage.ID] = stage
	}
	comps := &pipepb.Components{}
	if err := proto.Unmarshal(s.Components, comps); err != nil {
		return fmt.Errorf("unmarshal plan: %w", err)
	}
	*p = Plan{Graph: s.Graph, Stages: stages, Declared: s.Declared, Components: comps}
	return nil
}

// Hash names the plan by its content. Take it when the plan is complete, with
// its regions.
func (p *Plan) Hash() (string, error) {
	data, err := p.MarshalJSON()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
