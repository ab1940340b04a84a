package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Components gives the graph's transforms, collections, coders, windowing
// strategies and environments back as protos, under the same ids. Collections
// have Coder for their coder; see Declared for the others.
func (g *Graph) Components() *pipepb.Components {
	c := &pipepb.Components{
		Transforms:          make(map[string]*pipepb.PTransform, len(g.Transforms)),
		Pcollections:        make(map[string]*pipepb.PCollection, len(g.Collections)),
		WindowingStrategies: make(map[string]*pipepb.WindowingStrategy, len(g.Windowings)),
		Coders:              make(map[string]*pipepb.Coder, len(g.Coders)),
		Environments:        make(map[string]*pipepb.Environment, len(g.Environments)),
	}
	for _, t := range g.Transforms {
		c.Transforms[string(t.ID)] = t.Proto
	}
	for id, col := range g.Collections {
		bounded := pipepb.IsBounded_UNBOUNDED
		if col.Bounded {
			bounded = pipepb.IsBounded_BOUNDED
		}
		c.Pcollections[string(id)] = &pipepb.PCollection{
			UniqueName:          string(id),
			CoderId:             col.Coder,
			IsBounded:           bounded,
			WindowingStrategyId: col.Windowing,
		}
	}
	for id, w := range g.Windowings {
		c.WindowingStrategies[id] = w
	}
	for id, p := range g.Coders {
		c.Coders[id] = p
	}
	for id, e := range g.Environments {
		c.Environments[string(id)] = e
	}
	return c
}

// Declared maps each collection whose wire coder isn't the coder that SDKs know
// it by to the latter. A worker is told it as the collection's coder where
// Collection.Declared says so.
func (g *Graph) Declared() map[string]string {
	m := map[string]string{}
	for id, c := range g.Collections {
		if c.Declared != "" && c.Declared != c.Coder {
			m[string(id)] = c.Declared
		}
	}
	return m
}
