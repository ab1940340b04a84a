package graph

import (
	"slices"
	"strings"

	"trestle/coders"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// typed types the leaves [lo, hi), composites that can be done as a whole as
// one; but not the composite within, whose parts they are.
func (r *reader) typed(w *walker, lo, hi int, within *pipepb.PTransform) []*Transform {
	var ts []*Transform
	next := firstWhole(w.wholes, lo)
	for i := lo; i < hi; {
		var c *whole
		for ; next < len(w.wholes) && w.wholes[next].lo <= i; next++ {
			h := w.wholes[next]
			if c == nil && h.lo == i && h.hi > i && h.hi <= hi && h.proto != within && w.closed(h) {
				c = &h
			}
		}
		if c == nil {
			if t := r.typedLeaf(w.leaves[i]); t != nil {
				ts = append(ts, t)
			}
			i++
			continue
		}
		ts = append(ts, r.typedWhole(w, *c)...)
		i = c.hi
	}
	return ts
}

// firstWhole finds the first composite that begins at a leaf or after it.
func firstWhole(all []whole, lo int) int {
	i, _ := slices.BinarySearchFunc(all, lo, func(c whole, lo int) int {
		if c.lo < lo {
			return -1
		}
		return 1
	})
	return i
}

func (r *reader) typedWhole(w *walker, c whole) []*Transform {
	t := r.shell(c.leaf)
	if t.Kind = wholes[c.proto.GetSpec().GetUrn()]; t.Kind == Reshuffle {
		t.Environment = ""
		return []*Transform{r.ends(t)}
	}
	if !r.liftable(c.proto) {
		return r.typed(w, c.lo, c.hi, c.proto)
	}
	t.Parts = r.typed(w, c.lo, c.hi, c.proto)
	return []*Transform{r.ends(t)}
}

// liftable reports whether a combine says all that is needed to do it as a
// whole. If not it is done as its SDK expanded it.
func (r *reader) liftable(t *pipepb.PTransform) bool {
	var pay pipepb.CombinePayload
	if proto.Unmarshal(t.GetSpec().GetPayload(), &pay) != nil || pay.GetCombineFn() == nil {
		return false
	}
	in := r.comps.GetPcollections()[only(t.GetInputs())]
	return r.comps.GetEnvironments()[t.GetEnvironmentId()] != nil &&
		r.coderErr(pay.GetAccumulatorCoderId()) == "" &&
		r.isKV(in.GetCoderId())
}

// shell is what all kinds of transforms have.
func (r *reader) shell(l leaf) *Transform {
	return &Transform{
		ID:          TransformID(l.id),
		Name:        l.proto.GetUniqueName(),
		Proto:       l.proto,
		Environment: EnvironmentID(l.proto.GetEnvironmentId()),
		Origin:      TransformID(l.id),
	}
}

// ends fills in main inputs and outputs, and gives each output its place.
func (r *reader) ends(t *Transform) *Transform {
	side := t.ParDo.GetSideInputs()
	for _, tag := range sortedTags(t.Proto.GetInputs()) {
		if side[tag] == nil {
			t.Inputs = append(t.Inputs, CollectionID(t.Proto.GetInputs()[tag]))
		}
	}
	for _, tag := range sortedTags(t.Proto.GetOutputs()) {
		id := t.Proto.GetOutputs()[tag]
		t.Outputs = append(t.Outputs, CollectionID(id))
		r.collection(t, tag, id)
	}
	return t
}

// typedLeaf types one leaf, or tells what is wrong and returns nil.
func (r *reader) typedLeaf(l leaf) *Transform {
	t, before := r.shell(l), len(r.errs)
	switch urn := l.proto.GetSpec().GetUrn(); urn {
	case URNImpulse:
		t.Kind, t.Environment = Impulse, ""
	case URNGroupByKey:
		t.Kind, t.Environment = GroupByKey, ""
	case URNFlatten:
		t.Kind, t.Environment = Flatten, ""
	case urnCreateView: // an SDK's name for what it reads as a side input
		t.Kind, t.Environment = Flatten, ""
		t.Proto = proto.Clone(l.proto).(*pipepb.PTransform)
		t.Proto.Spec = &pipepb.FunctionSpec{Urn: URNFlatten}
	case URNReshuffle, URNRedistributeByKey, URNRedistributeArbitrarily:
		t.Kind, t.Environment = Reshuffle, ""
	case URNCombinePerKey:
		t.Kind = CombinePerKey
		if !r.liftable(l.proto) {
			r.fail(where(l.id, l.proto), "must have a kv input, an environment and a combine payload with an accumulator coder, or else the parts that do it")
		}
	case URNParDo, URNPairWithRestriction, URNSplitAndSize, URNProcessRestrictions, URNTruncate:
		r.parDo(t, urn)
	case URNTestStream:
		t.Kind, t.Environment = TestStream, ""
	case urnRead:
		r.fail(where(l.id, l.proto), "is a Read that the runner itself would have to do; let the SDK read by splittable DoFns (leave out use_deprecated_read)")
	default:
		t.Kind = ParDo
	}
	r.environment(t)
	if len(r.errs) == before {
		r.count(t)
	}
	r.ends(t)
	if t.Kind == Impulse && len(r.errs) == before {
		r.checkImpulse(t)
	}
	return t
}

// checkImpulse checks that SDKs can decode the one element that the runner
// makes itself.
func (r *reader) checkImpulse(t *Transform) {
	c := r.collections[t.Outputs[0]].Coder
	if urn := r.comps.GetCoders()[c].GetSpec().GetUrn(); urn != coders.URNBytes {
		r.fail(where(string(t.ID), t.Proto), "output must have a bytes coder, but has %s", r.coderName(c))
	}
}

// environment checks that somebody can run the transform.
func (r *reader) environment(t *Transform) {
	at, urn := where(string(t.ID), t.Proto), t.Proto.GetSpec().GetUrn()
	switch t.Kind {
	case Impulse, GroupByKey, Flatten, Reshuffle, TestStream, 0:
		return
	}
	if markers[urn] {
		r.fail(at, "has no parts and says nothing of what it does; it must have sub-transforms, or the specification of a transform")
		return
	}
	env := r.comps.GetEnvironments()[string(t.Environment)]
	switch {
	case urn == urnFused:
		r.fail(at, "was fused by its SDK; submit the pipeline as it was written (in Python without pre_optimize=all)")
	case t.Environment == "":
		r.fail(at, "is %q, which the runner doesn't do itself, and has no environment to run it in", clip(urn))
	case env == nil:
		r.fail(at, "names environment %q, which is not in the pipeline", clip(string(t.Environment)))
	case !isSDKs(urn, env) && t.Kind == ParDo:
		r.fail(at, "is %q, which was not expanded: its expansion service must be asked for its parts before the pipeline is submitted", clip(urn))
	}
}

// count checks how many collections go in and out.
func (r *reader) count(t *Transform) {
	at := where(string(t.ID), t.Proto)
	in, out := len(t.Proto.GetInputs())-len(t.ParDo.GetSideInputs()), len(t.Proto.GetOutputs())
	want := func(what string, has, want int) {
		if has != want {
			r.fail(at, "must have %d %s, but has %d", want, what, has)
		}
	}
	switch t.Kind {
	case Impulse:
		want("inputs", in, 0)
		want("output", out, 1)
	case TestStream:
		want("inputs", in, 0)
	case Flatten:
		want("output", out, 1)
	case GroupByKey, Reshuffle, CombinePerKey:
		want("input", in, 1)
		want("output", out, 1)
	case ParDo, Splittable, Restrictions:
		if in != 1 {
			tags := strings.Join(sortedTags(t.Proto.GetInputs()), ", ")
			r.fail(at, "must have one main input, but has %d (inputs: %s; side inputs: %d)", in, clip(tags), len(t.ParDo.GetSideInputs()))
		}
	}
}
