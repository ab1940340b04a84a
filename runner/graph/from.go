package graph

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// FromProto checks a submitted pipeline and types it. The error joins a
// *PipelineError for each mistake, in the order in which the pipeline names its
// transforms.
func FromProto(p *pipepb.Pipeline) (*Graph, error) {
	r := &reader{
		comps:       p.GetComponents(),
		collections: map[CollectionID]*Collection{},
		coders:      coderCheck{protos: p.GetComponents().GetCoders(), done: map[string]coderSize{}},
		told:        map[string]bool{},
	}
	r.requirements(p.GetRequirements())
	w := walk(r, p.GetRootTransformIds())
	r.producers = w.producers()
	ts := r.typed(w, 0, len(w.leaves), nil)
	if len(ts) == 0 && len(r.errs) == 0 {
		r.fail("pipeline", "has no transforms; apply at least one, such as an Impulse or a Create")
	}
	for _, t := range ts {
		r.checkReads(t)
	}
	if len(r.errs) == 0 {
		r.acyclic(ts)
	}
	if len(r.errs) > 0 {
		return nil, r.joined()
	}
	return r.graph(p, ts), nil
}

// maxErrors bounds what is told of one pipeline.
const maxErrors = 100

// A reader checks one pipeline.
type reader struct {
	comps       *pipepb.Components
	producers   map[string][]string // collection → transforms that claim to make it
	collections map[CollectionID]*Collection
	coders      coderCheck
	told        map[string]bool // mistakes in coders that stand in errs
	errs        []error
}

func (r *reader) fail(where, format string, args ...any) {
	r.errs = append(r.errs, &PipelineError{Where: where, What: fmt.Sprintf(format, args...)})
}

func (r *reader) joined() error {
	if more := len(r.errs) - maxErrors; more > 0 {
		r.errs = append(r.errs[:maxErrors], &PipelineError{Where: "pipeline", What: fmt.Sprintf("has %d more mistakes", more)})
	}
	return errors.Join(r.errs...)
}

// where names a transform as its author does.
func where(id string, t *pipepb.PTransform) string {
	name := t.GetUniqueName()
	if name == "" {
		return fmt.Sprintf("transform %s", clip(id))
	}
	return fmt.Sprintf("transform %q (%s)", clip(name), clip(id))
}

// clip keeps hostile names from filling logs.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// acyclic checks that transforms can be put in order, with combines as wholes
// and with what they may be expanded to.
func (r *reader) acyclic(ts []*Transform) {
	for _, view := range [][]*Transform{expanded(ts), ts} {
		if rest := order(&view); rest != nil {
			cycle := cycleOf(rest)
			r.fail(where(string(cycle[0].ID), cycle[0].Proto),
				"stands on a cycle (%s); a transform must not read, by whatever way, what it made", names(cycle))
			return
		}
	}
}

func expanded(ts []*Transform) []*Transform {
	var all []*Transform
	for _, t := range ts {
		if len(t.Parts) > 0 {
			all = append(all, expanded(t.Parts)...)
		} else {
			all = append(all, t)
		}
	}
	return all
}

// cycleOf finds a cycle among transforms each of which waits for another one.
func cycleOf(rest []*Transform) []*Transform {
	maker := map[CollectionID]*Transform{}
	for _, t := range rest {
		for _, c := range t.Outputs {
			maker[c] = t
		}
	}
	at := map[*Transform]int{} // place on the way
	var way []*Transform
	for t := rest[0]; ; {
		if i, ok := at[t]; ok {
			cycle := way[i:]
			slices.Reverse(cycle) // the way led upstream
			return cycle
		}
		at[t] = len(way)
		way = append(way, t)
		for _, c := range t.Reads() {
			if m := maker[c]; m != nil {
				t = m
				break
			}
		}
	}
}

// names lists a few transforms.
func names(ts []*Transform) string {
	const most = 10
	var s []string
	for _, t := range ts[:min(most, len(ts))] {
		s = append(s, clip(string(t.ID)))
	}
	if more := len(ts) - most; more > 0 {
		s = append(s, fmt.Sprintf("%d more", more))
	}
	return strings.Join(s, ", ")
}

func (r *reader) requirements(wanted []string) {
	known := requirements()
	for _, q := range wanted {
		if !slices.Contains(known, q) {
			r.fail("pipeline", "requires %q, which is not known here; known are %s", clip(q), strings.Join(known, ", "))
		}
	}
}

// graph puts together what has been checked.
func (r *reader) graph(p *pipepb.Pipeline, ts []*Transform) *Graph {
	g := &Graph{
		Transforms:   ts,
		Collections:  r.collections,
		Environments: map[EnvironmentID]*pipepb.Environment{},
		Windowings:   map[string]*pipepb.WindowingStrategy{},
		Coders:       maps.Clone(r.comps.GetCoders()),
		Requirements: slices.Clone(p.GetRequirements()),
	}
	for _, c := range g.Collections {
		g.Windowings[c.Windowing] = r.comps.GetWindowingStrategies()[c.Windowing]
	}
	for id, e := range r.comps.GetEnvironments() {
		if e != nil {
			g.Environments[EnvironmentID(id)] = e
		}
	}
	if g.Coders == nil {
		g.Coders = map[string]*pipepb.Coder{}
	}
	maps.DeleteFunc(g.Coders, func(_ string, c *pipepb.Coder) bool { return c == nil })
	for _, t := range g.Transforms {
		g.Streaming = g.Streaming || t.Kind == TestStream
		for _, c := range t.Outputs {
			g.Streaming = g.Streaming || !g.Collections[c].Bounded
		}
	}
	g.Sort() // a combine that is whole, not its parts, makes what comes out
	return g
}

func sortedTags[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
