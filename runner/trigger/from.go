package trigger

import (
	"fmt"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Bounds on what a pipeline may ask for.
const (
	mostNodes = 1000
	maxDepth  = 50
)

// Options say where a trigger is used.
type Options struct {
	// Merging says that windows may merge. The trigger then remembers what it
	// would need if a part of it came to life again.
	Merging bool
	// Open says that the window shall stay open after a trigger that is nothing
	// but a processing-time delay: what comes later is in the last pane.
	Open bool
}

// New makes a tree from a trigger's proto. A missing one is the default
// trigger.
func New(t *pipepb.Trigger, o Options) (*Tree, error) {
	tree := &Tree{merging: o.Merging}
	b := builder{tree}
	if t.GetTrigger() == nil {
		t = protoDefault
	}
	if o.Open && (t.GetAfterProcessingTime() != nil || t.GetAfterSynchronizedProcessingTime() != nil) {
		t = &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{
			AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: []*pipepb.Trigger{t, protoNever}},
		}}
	}
	if err := b.add(t, 0); err != nil {
		return nil, err
	}
	return tree, nil
}

// A builder puts nodes into a tree.
type builder struct{ *Tree }

// add adds a trigger and all below it.
func (b builder) add(t *pipepb.Trigger, depth int) error {
	i := len(b.nodes)
	if i >= mostNodes || depth >= maxDepth {
		return fmt.Errorf("the trigger has more than %d parts, or they are nested more than %d deep", mostNodes, maxDepth)
	}
	b.nodes = append(b.nodes, node{slot: len(b.slotted)})
	subs, err := b.fill(&b.nodes[i], t)
	if err != nil {
		return err
	}
	if b.nodes[i].hasSlot(len(subs)) {
		b.slotted = append(b.slotted, i)
	}
	var indices []int
	ends := b.nodes[i].kind == endOfWindow
	for _, sub := range subs {
		at := len(b.nodes)
		if err := b.add(sub, depth+1); err != nil {
			return err
		}
		indices = append(indices, at)
		ends = ends || b.nodes[at].ends
	}
	n := &b.nodes[i]
	n.subs, n.end, n.endSlot, n.ends = indices, len(b.nodes), len(b.slotted), ends
	switch n.kind {
	case byDefault, always, never, repeat:
	case processing, synchronized:
		b.finite, b.timed = true, true
	default:
		b.finite = true
	}
	return nil
}

// hasSlot reports whether the node remembers more than that it has finished.
func (n *node) hasSlot(subs int) bool {
	switch n.kind {
	case elementCount, processing, synchronized:
		return true
	case endOfWindow:
		return subs > 0
	}
	return false
}

// fill sets what is the node's own, and tells the triggers below it.
func (b builder) fill(n *node, t *pipepb.Trigger) (subs []*pipepb.Trigger, err error) {
	switch t := t.GetTrigger().(type) {
	case *pipepb.Trigger_Default_:
		n.kind = byDefault
	case *pipepb.Trigger_Always_:
		n.kind = always
	case *pipepb.Trigger_Never_:
		n.kind = never
	case *pipepb.Trigger_AfterEndOfWindow_:
		n.kind = endOfWindow
		return earlyAndLate(t.AfterEndOfWindow), nil
	case *pipepb.Trigger_ElementCount_:
		n.kind, n.count = elementCount, int64(t.ElementCount.GetElementCount())
		if n.count < 1 {
			return nil, fmt.Errorf("a trigger fires after %d elements; it must be 1 or more", n.count)
		}
	case *pipepb.Trigger_AfterProcessingTime_:
		n.kind = processing
		n.transform, err = transforms(t.AfterProcessingTime.GetTimestampTransforms())
		return nil, err
	case *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		n.kind = synchronized
	case *pipepb.Trigger_AfterAll_:
		n.kind, subs = afterAll, t.AfterAll.GetSubtriggers()
	case *pipepb.Trigger_AfterAny_:
		n.kind, subs = afterAny, t.AfterAny.GetSubtriggers()
	case *pipepb.Trigger_AfterEach_:
		n.kind, subs = afterEach, t.AfterEach.GetSubtriggers()
	case *pipepb.Trigger_OrFinally_:
		n.kind, subs = orFinally, []*pipepb.Trigger{t.OrFinally.GetMain(), t.OrFinally.GetFinally()}
	case *pipepb.Trigger_Repeat_:
		n.kind, subs = repeat, []*pipepb.Trigger{t.Repeat.GetSubtrigger()}
	default:
		return nil, fmt.Errorf("a trigger, or a part of one, is of no kind that is known")
	}
	switch n.kind {
	case afterAll, afterAny, afterEach:
		if len(subs) == 0 {
			return nil, fmt.Errorf("a trigger that waits for others (%s) has none", names[n.kind])
		}
	}
	return subs, nil
}

// earlyAndLate are the triggers before and after the end of the window: none,
// the early one, or both.
func earlyAndLate(t *pipepb.Trigger_AfterEndOfWindow) []*pipepb.Trigger {
	early, late := t.GetEarlyFirings(), t.GetLateFirings()
	if early.GetTrigger() == nil {
		early = nil
	}
	switch {
	case late.GetTrigger() == nil && early == nil:
		return nil
	case late.GetTrigger() == nil:
		return []*pipepb.Trigger{early}
	case early == nil:
		early = protoNever
	}
	return []*pipepb.Trigger{early, late}
}

func transforms(protos []*pipepb.TimestampTransform) ([]transform, error) {
	var out []transform
	for _, p := range protos {
		switch p := p.GetTimestampTransform().(type) {
		case *pipepb.TimestampTransform_Delay_:
			if p.Delay.GetDelayMillis() < 0 {
				return nil, fmt.Errorf("a trigger's delay is %d ms; it must not be negative", p.Delay.GetDelayMillis())
			}
			out = append(out, transform{delay: p.Delay.GetDelayMillis()})
		case *pipepb.TimestampTransform_AlignTo_:
			if p.AlignTo.GetPeriod() <= 0 {
				return nil, fmt.Errorf("a trigger's time is aligned to multiples of %d ms; they must be positive", p.AlignTo.GetPeriod())
			}
			offset := p.AlignTo.GetOffset() % p.AlignTo.GetPeriod()
			out = append(out, transform{period: p.AlignTo.GetPeriod(), offset: offset})
		default:
			return nil, fmt.Errorf("a trigger's time is changed in a way that is not known")
		}
	}
	return out, nil
}

// Triggers that stand in for missing ones.
var (
	protoDefault = &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
	protoNever   = &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}
	protoSync    = &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterSynchronizedProcessingTime_{
		AfterSynchronizedProcessingTime: &pipepb.Trigger_AfterSynchronizedProcessingTime{},
	}}
	protoOne = &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{
		ElementCount: &pipepb.Trigger_ElementCount{ElementCount: 1},
	}}
)

// Continuation is the trigger of a collection that was made by a grouping with
// trigger t: it lets on what comes from there as soon as makes sense, instead
// of delaying it again.
func Continuation(t *pipepb.Trigger) *pipepb.Trigger {
	switch k := t.GetTrigger().(type) {
	case *pipepb.Trigger_AfterEndOfWindow_:
		e := &pipepb.Trigger_AfterEndOfWindow{}
		if early := k.AfterEndOfWindow.GetEarlyFirings(); early.GetTrigger() != nil {
			e.EarlyFirings = Continuation(early)
		}
		if late := k.AfterEndOfWindow.GetLateFirings(); late.GetTrigger() != nil {
			e.LateFirings = Continuation(late)
		}
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: e}}
	case *pipepb.Trigger_ElementCount_:
		return protoOne
	case *pipepb.Trigger_AfterProcessingTime_, *pipepb.Trigger_AfterSynchronizedProcessingTime_:
		return protoSync
	case *pipepb.Trigger_AfterAll_:
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{
			AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: continuations(k.AfterAll.GetSubtriggers())},
		}}
	case *pipepb.Trigger_AfterAny_:
		return anyOf(k.AfterAny.GetSubtriggers())
	case *pipepb.Trigger_AfterEach_:
		return forever(anyOf(k.AfterEach.GetSubtriggers()))
	case *pipepb.Trigger_OrFinally_:
		return forever(&pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{OrFinally: &pipepb.Trigger_OrFinally{
			Main: Continuation(k.OrFinally.GetMain()), Finally: Continuation(k.OrFinally.GetFinally()),
		}}})
	case *pipepb.Trigger_Repeat_:
		return forever(Continuation(k.Repeat.GetSubtrigger()))
	}
	return t
}

func continuations(subs []*pipepb.Trigger) []*pipepb.Trigger {
	out := make([]*pipepb.Trigger, len(subs))
	for i, s := range subs {
		out[i] = Continuation(s)
	}
	return out
}

func anyOf(subs []*pipepb.Trigger) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{
		AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: continuations(subs)},
	}}
}

func forever(t *pipepb.Trigger) *pipepb.Trigger {
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: t}}}
}
