package graph

import (
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// parDo types a transform with a ParDoPayload.
func (r *reader) parDo(t *Transform, urn string) {
	at := where(string(t.ID), t.Proto)
	t.Kind = ParDo
	pay := &pipepb.ParDoPayload{}
	if err := proto.Unmarshal(t.Proto.GetSpec().GetPayload(), pay); err != nil {
		r.fail(at, "has a payload that is not a ParDoPayload: %v", err)
		return
	}
	t.ParDo = pay
	t.Stateful = len(pay.GetStateSpecs())+len(pay.GetTimerFamilySpecs()) > 0 ||
		pay.GetOnWindowExpirationTimerFamilySpec() != "" || pay.GetRequiresTimeSortedInput()
	switch {
	case urn == URNProcessRestrictions:
		t.Kind = Restrictions
	case urn == URNParDo && pay.GetRestrictionCoderId() != "":
		t.Kind = Splittable
		if t.Stateful {
			r.fail(at, "is a splittable DoFn with state or timers; a DoFn can be one or the other")
		}
	}
	if c := pay.GetRestrictionCoderId(); c != "" {
		r.coder(at, "restriction", c)
	}
	r.sides(t, at)
	for _, name := range sortedTags(pay.GetStateSpecs()) {
		r.state(at, name, pay.GetStateSpecs()[name])
	}
	for _, name := range sortedTags(pay.GetTimerFamilySpecs()) {
		r.timer(at, name, pay.GetTimerFamilySpecs()[name])
	}
	if f := pay.GetOnWindowExpirationTimerFamilySpec(); f != "" && pay.GetTimerFamilySpecs()[f] == nil {
		r.fail(at, "names timer family %q for the expiration of windows, but declares none of that name", clip(f))
	}
}

func (r *reader) sides(t *Transform, at string) {
	for _, tag := range sortedTags(t.ParDo.GetSideInputs()) {
		access := t.ParDo.GetSideInputs()[tag].GetAccessPattern().GetUrn()
		c, ok := t.Proto.GetInputs()[tag]
		switch {
		case !ok:
			r.fail(at, "declares a side input %q, but has no input of that name", clip(tag))
			continue
		case access != AccessIterable && access != AccessMultimap:
			r.fail(at, "reads side input %q by %q; it must be %s or %s", clip(tag), clip(access), AccessIterable, AccessMultimap)
		}
		t.SideInputs = append(t.SideInputs, SideInput{Tag: tag, Collection: CollectionID(c), Access: access})
	}
}

func (r *reader) state(at, name string, s *pipepb.StateSpec) {
	switch p := s.GetProtocol().GetUrn(); p {
	case stateBag, stateMultimap, stateOrderedList:
	case "":
		// Older SDKs leave the protocol to be told from the kind of state.
		if s.GetSpec() == nil {
			r.fail(at, "declares state %q of no kind", clip(name))
		}
	default:
		r.fail(at, "declares state %q with protocol %q; it must be %s, %s or %s", clip(name), clip(p), stateBag, stateMultimap, stateOrderedList)
	}
	for _, c := range stateCoders(s) {
		if c != "" {
			r.coder(at, "state \""+clip(name)+"\"", c)
		}
	}
}

func stateCoders(s *pipepb.StateSpec) []string {
	switch s.GetSpec().(type) {
	case *pipepb.StateSpec_ReadModifyWriteSpec:
		return []string{s.GetReadModifyWriteSpec().GetCoderId()}
	case *pipepb.StateSpec_BagSpec:
		return []string{s.GetBagSpec().GetElementCoderId()}
	case *pipepb.StateSpec_CombiningSpec:
		return []string{s.GetCombiningSpec().GetAccumulatorCoderId()}
	case *pipepb.StateSpec_MapSpec:
		return []string{s.GetMapSpec().GetKeyCoderId(), s.GetMapSpec().GetValueCoderId()}
	case *pipepb.StateSpec_SetSpec:
		return []string{s.GetSetSpec().GetElementCoderId()}
	case *pipepb.StateSpec_OrderedListSpec:
		return []string{s.GetOrderedListSpec().GetElementCoderId()}
	case *pipepb.StateSpec_MultimapSpec:
		return []string{s.GetMultimapSpec().GetKeyCoderId(), s.GetMultimapSpec().GetValueCoderId()}
	}
	return nil
}

func (r *reader) timer(at, name string, s *pipepb.TimerFamilySpec) {
	switch s.GetTimeDomain() {
	case pipepb.TimeDomain_EVENT_TIME, pipepb.TimeDomain_PROCESSING_TIME:
	default:
		r.fail(at, "has timers %q in time domain %v; it must be event time or processing time", clip(name), s.GetTimeDomain())
	}
	r.coder(at, "timers \""+clip(name)+"\"", s.GetTimerFamilyCoderId())
}
