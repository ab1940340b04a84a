package graph

import (
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// maxNesting bounds how deep composites and coders may nest.
const maxNesting = 1000

// A walker goes down the composites of a pipeline.
type walker struct {
	r      *reader
	leaves []leaf
	wholes []whole
	seen   map[string]bool // true while the transform is being walked

	readers map[string][]int // collection → leaves, by index, that read it
}

// A leaf has no parts, or none that matter.
type leaf struct {
	id    string
	proto *pipepb.PTransform
}

// A whole is a composite that the runner may do at once, over the leaves
// [lo, hi).
type whole struct {
	leaf
	lo, hi int
}

// walk finds the leaves of a pipeline, in the author's order. Roots are those
// named and, as some rewrites in SDKs forget to name them, whatever is part of
// nothing.
func walk(r *reader, roots []string) *walker {
	w := &walker{r: r, seen: map[string]bool{}, readers: map[string][]int{}}
	for _, id := range roots {
		if r.comps.GetTransforms()[id] == nil {
			r.fail("pipeline", "names %q as a root transform, but has no such transform", clip(id))
			continue
		}
		w.walk(id, 0)
	}
	part := map[string]bool{}
	for _, t := range r.comps.GetTransforms() {
		for _, sub := range t.GetSubtransforms() {
			part[sub] = true
		}
	}
	for _, id := range sortedTags(r.comps.GetTransforms()) {
		if !part[id] {
			w.walk(id, 0)
		}
	}
	for _, id := range sortedTags(r.comps.GetTransforms()) {
		w.walk(id, 0) // what nothing leads to is on a cycle of composites
	}
	w.dropMarkers()
	return w
}

func (w *walker) walk(id string, depth int) {
	if open, ok := w.seen[id]; ok {
		if open {
			w.r.fail(where(id, w.r.comps.GetTransforms()[id]), "is part of itself; composites must form a tree")
		}
		return
	}
	t := w.r.comps.GetTransforms()[id]
	if t == nil {
		return // told by whoever named it
	}
	if depth > maxNesting {
		w.r.fail(where(id, t), "is nested more than %d composites deep", maxNesting)
		w.seen[id] = false
		return
	}
	w.seen[id] = true
	w.enter(id, t, depth)
	w.seen[id] = false
}

func (w *walker) enter(id string, t *pipepb.PTransform, depth int) {
	urn := t.GetSpec().GetUrn()
	if len(t.GetSubtransforms()) == 0 || primitives[urn] {
		w.leaves = append(w.leaves, leaf{id, t})
		w.close(t)
		return
	}
	at := len(w.wholes)
	if wholes[urn] != 0 {
		w.wholes = append(w.wholes, whole{leaf: leaf{id, t}, lo: len(w.leaves)})
	}
	for _, sub := range t.GetSubtransforms() {
		if w.r.comps.GetTransforms()[sub] == nil {
			w.r.fail(where(id, t), "has a part %q that is not in the pipeline", clip(sub))
			continue
		}
		w.walk(sub, depth+1)
	}
	if wholes[urn] != 0 {
		w.wholes[at].hi = len(w.leaves)
	}
}

// close marks the parts of a primitive as seen: they are not to be done.
func (w *walker) close(t *pipepb.PTransform) {
	todo := slices.Clone(t.GetSubtransforms())
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, ok := w.seen[id]; ok {
			continue
		}
		w.seen[id] = false
		todo = append(todo, w.r.comps.GetTransforms()[id].GetSubtransforms()...)
	}
}

// producers tells which leaves claim to make each collection.
func (w *walker) producers() map[string][]string {
	made := map[string][]string{}
	for _, l := range w.leaves {
		for _, tag := range sortedTags(l.proto.GetOutputs()) {
			c := l.proto.GetOutputs()[tag]
			made[c] = append(made[c], l.id)
		}
	}
	return made
}

// dropMarkers removes leaves that do nothing: composites whose parts an SDK
// has moved elsewhere, or that only hand on what they got.
func (w *walker) dropMarkers() {
	made, read := map[string]bool{}, map[string]bool{}
	for _, l := range w.leaves {
		for c := range maps.Values(l.proto.GetInputs()) {
			read[c] = true
		}
		if markers[l.proto.GetSpec().GetUrn()] || handsOn(l.proto, nil) {
			continue
		}
		for c := range maps.Values(l.proto.GetOutputs()) {
			made[c] = true
		}
	}
	kept := make([]leaf, 0, len(w.leaves))
	at := make([]int, len(w.leaves)+1) // old index → new index
	for i, l := range w.leaves {
		at[i] = len(kept)
		urn := l.proto.GetSpec().GetUrn()
		switch {
		case primitives[urn]:
		case handsOn(l.proto, nil) && len(l.proto.GetOutputs()) > 0:
			continue
		case markers[urn] && handsOn(l.proto, made):
			continue
		case urn == urnCreateView && unread(l.proto, read):
			continue
		}
		kept = append(kept, l)
	}
	at[len(w.leaves)] = len(kept)
	for i := range w.wholes {
		w.wholes[i].lo, w.wholes[i].hi = at[w.wholes[i].lo], at[w.wholes[i].hi]
	}
	w.leaves = kept
	for i, l := range kept {
		for _, c := range l.proto.GetInputs() {
			w.readers[c] = append(w.readers[c], i)
		}
	}
}

// handsOn reports whether each output of t is one of its inputs or made by
// others.
func handsOn(t *pipepb.PTransform, made map[string]bool) bool {
	for _, out := range t.GetOutputs() {
		if made[out] {
			continue
		}
		found := false
		for _, in := range t.GetInputs() {
			found = found || in == out
		}
		if !found {
			return false
		}
	}
	return true
}

func unread(t *pipepb.PTransform, read map[string]bool) bool {
	for _, out := range t.GetOutputs() {
		if read[out] {
			return false
		}
	}
	return true
}

// closed reports whether a composite can be done as a whole: one collection
// goes in, one comes out, and nothing else passes its wall.
func (w *walker) closed(c whole) bool {
	in, out := only(c.proto.GetInputs()), only(c.proto.GetOutputs())
	if in == "" || out == "" || in == out {
		return false
	}
	inside := map[string]bool{}
	for _, l := range w.leaves[c.lo:c.hi] {
		for _, o := range l.proto.GetOutputs() {
			inside[o] = true
		}
	}
	if c.lo < c.hi && !inside[out] || inside[in] {
		return false
	}
	for _, l := range w.leaves[c.lo:c.hi] {
		for _, read := range l.proto.GetInputs() {
			if read != in && !inside[read] {
				return false
			}
		}
	}
	for o := range inside {
		if o == out {
			continue
		}
		for _, reader := range w.readers[o] {
			if reader < c.lo || reader >= c.hi {
				return false
			}
		}
	}
	return true
}

// only returns the only value of m, or "".
func only(m map[string]string) string {
	if len(m) != 1 {
		return ""
	}
	for _, v := range m {
		return v
	}
	return ""
}
