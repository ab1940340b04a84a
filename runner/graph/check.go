package graph

import (
	"fmt"
	"strings"

	"trestle/coders"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A coder is bounded as the tree that it is when written out: coders share
// parts, so a few of them could otherwise stand for millions.
const (
	maxCoderParts  = 10_000
	maxCoderHeight = 50 // package coders goes to 64, and adds a few of its own
)

// collection checks an output and notes it.
func (r *reader) collection(t *Transform, tag, id string) {
	at := where(string(t.ID), t.Proto)
	if _, ok := r.collections[CollectionID(id)]; ok {
		// CombinePerKey and its parts make the same collection.
		if makers := r.producers[id]; len(makers) > 1 {
			r.fail(at, "output %q is collection %s, which %s makes too; a collection has one producer", clip(tag), clip(id), clip(makers[0]))
		}
		return
	}
	pc := r.comps.GetPcollections()[id]
	if pc == nil {
		r.fail(at, "output %q is collection %q, which is not in the pipeline", clip(tag), clip(id))
		return
	}
	r.collections[CollectionID(id)] = &Collection{
		ID:        CollectionID(id),
		Coder:     pc.GetCoderId(),
		Windowing: pc.GetWindowingStrategyId(),
		Bounded:   pc.GetIsBounded() != pipepb.IsBounded_UNBOUNDED,
		Producer:  t.ID,
	}
	what := fmt.Sprintf("output %q (%s)", clip(tag), clip(id))
	r.coder(at, what, pc.GetCoderId())
	r.windowing(at, what, pc.GetWindowingStrategyId())
}

// coder checks that a coder is whole. What is wrong with a coder is told where
// it is first met.
func (r *reader) coder(at, what, id string) {
	if bad := r.coderErr(id); bad != "" && !r.told[bad] {
		r.told[bad] = true
		r.fail(at, "%s: %s", what, bad)
	}
}

func (r *reader) coderErr(id string) string {
	_, bad := r.coders.measure(id, 0)
	return bad
}

// A coderCheck follows the components of coders.
type coderCheck struct {
	protos map[string]*pipepb.Coder
	done   map[string]coderSize // the zero size while under way
}

// A coderSize is of a coder written out as a tree.
type coderSize struct{ parts, height int }

func (c *coderCheck) measure(id string, depth int) (s coderSize, bad string) {
	p := c.protos[id]
	if p == nil {
		return s, fmt.Sprintf("coder %q is not in the pipeline", clip(id))
	}
	s, ok := c.done[id]
	switch {
	case ok && s.parts == 0:
		return s, fmt.Sprintf("coder %q is part of itself", clip(id))
	case depth+s.height > maxCoderHeight:
		return s, fmt.Sprintf("coder %q is nested more than %d coders deep", clip(id), maxCoderHeight)
	case ok:
		return s, ""
	}
	c.done[id] = coderSize{}
	s, bad = c.measureParts(id, p, depth)
	if bad != "" {
		delete(c.done, id)
		return s, bad
	}
	c.done[id] = s
	return s, ""
}

func (c *coderCheck) measureParts(id string, p *pipepb.Coder, depth int) (s coderSize, bad string) {
	if bad := arity(id, p); bad != "" {
		return s, bad
	}
	s.parts = 1
	for _, part := range p.GetComponentCoderIds() {
		m, bad := c.measure(part, depth+1)
		if bad != "" {
			return s, bad
		}
		s.height = max(s.height, m.height+1)
		if s.parts += m.parts; s.parts > maxCoderParts {
			return s, fmt.Sprintf("coder %q consists of more than %d parts", clip(id), maxCoderParts)
		}
	}
	return s, ""
}

// arity checks the number of components of standard coders.
func arity(id string, p *pipepb.Coder) string {
	want, ok := map[string]int{
		coders.URNKV: 2, coders.URNIterable: 1, coders.URNLengthPrefix: 1, coders.URNStateBackedIterable: 1,
		coders.URNNullable: 1, coders.URNWindowedValue: 2, coders.URNTimer: 2,
	}[p.GetSpec().GetUrn()]
	if has := len(p.GetComponentCoderIds()); ok && has != want {
		return fmt.Sprintf("coder %q is %s and must have %d components, but has %d", clip(id), p.GetSpec().GetUrn(), want, has)
	}
	return ""
}

func (r *reader) isKV(coder string) bool {
	p := r.comps.GetCoders()[coder]
	return p.GetSpec().GetUrn() == coders.URNKV && len(p.GetComponentCoderIds()) == 2
}

// windowing checks that a windowing strategy is whole and that the runner
// knows windows of its kind.
func (r *reader) windowing(at, what, id string) {
	w := r.comps.GetWindowingStrategies()[id]
	switch {
	case w == nil:
		r.fail(at, "%s: windowing strategy %q is not in the pipeline", what, clip(id))
	case w.GetWindowFn().GetUrn() == "":
		r.fail(at, "%s: windowing strategy %q has no window function", what, clip(id))
	default:
		r.coder(at, what+": windows", w.GetWindowCoderId())
	}
}

// checkReads checks what a transform asks of its inputs. All outputs have been
// noted by then.
func (r *reader) checkReads(t *Transform) {
	at := where(string(t.ID), t.Proto)
	for _, p := range t.Parts {
		r.checkReads(p)
	}
	whole := true
	for _, tag := range sortedTags(t.Proto.GetInputs()) {
		if id := t.Proto.GetInputs()[tag]; r.collections[CollectionID(id)] == nil {
			r.missing(at, tag, id)
			whole = false
		}
	}
	if !whole {
		return
	}
	for _, in := range t.Inputs {
		r.checkMain(t, at, r.collections[in])
	}
	for _, s := range t.SideInputs {
		c := r.collections[s.Collection]
		if s.Access == AccessMultimap && !r.isKV(c.Coder) {
			r.fail(at, "side input %q is read by key and must have a kv coder, but has %s", clip(s.Tag), r.coderName(c.Coder))
		}
	}
}

func (r *reader) missing(at, tag, id string) {
	switch {
	case r.comps.GetPcollections()[id] == nil:
		r.fail(at, "input %q is collection %q, which is not in the pipeline", clip(tag), clip(id))
	case len(r.producers[id]) == 0:
		r.fail(at, "input %q is collection %q, which nothing produces", clip(tag), clip(id))
	}
}

func (r *reader) checkMain(t *Transform, at string, c *Collection) {
	switch {
	case t.Kind == GroupByKey, t.Kind == CombinePerKey:
		if !r.isKV(c.Coder) {
			r.fail(at, "input must have a kv coder, but has %s", r.coderName(c.Coder))
		}
		r.checkGrouping(at, c)
	case t.Stateful && t.Kind != Splittable:
		if !r.isKV(c.Coder) {
			r.fail(at, "uses state or timers, which are kept by key; input must have a kv coder, but has %s", r.coderName(c.Coder))
		}
	}
}

// checkGrouping checks the windows in which values are brought together.
// Triggers all pass: of bounded input they may fire once, with everything, when
// it has ended.
func (r *reader) checkGrouping(at string, c *Collection) {
	w := r.comps.GetWindowingStrategies()[c.Windowing]
	fn := w.GetWindowFn().GetUrn()
	if w.GetAccumulationMode() == pipepb.AccumulationMode_RETRACTING {
		r.fail(at, "groups panes in retracting mode, which is not supported; use discarding or accumulating mode")
	}
	if w.GetMergeStatus() == pipepb.MergeStatus_NEEDS_MERGE && fn != urnSessions && r.comps.GetEnvironments()[w.GetEnvironmentId()] == nil {
		r.fail(at, "groups in windows that merge by %q, and its windowing strategy names no environment of the pipeline that could merge them", clip(fn))
	}
}

// coderName says what a coder is and where it stands.
func (r *reader) coderName(id string) string {
	urn := r.comps.GetCoders()[id].GetSpec().GetUrn()
	urn = strings.TrimSuffix(strings.TrimPrefix(urn, "beam:coder:"), ":v1")
	if urn == "" {
		urn = "an unnamed coder"
	}
	return fmt.Sprintf("%s (%s)", clip(urn), clip(id))
}
