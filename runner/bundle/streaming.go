package bundle

import (
	"encoding/binary"
	"strings"

	"trestle/coders"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/pane"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Stream is what tasks of a streaming plan know beside.
type Stream struct {
	// Stages is the number of stages of the job, and Played says that one of
	// them is a TestStream: the job's clock is the test's then.
	Stages int
	Played bool
	// Panes decides for a stage whose root groups.
	Panes *pane.Strategy
	// LatenessMillis is how long windows of the root's collection live after
	// their end.
	LatenessMillis int64
	// Root and RootOrigin are the root's transform, if it has one, and the one of
	// the submitted pipeline that it stands for.
	Root       *pipepb.PTransform
	RootOrigin string
	// Nested says that the SDK of a TestStream encodes its elements as they are
	// on the wire, and not as if each stood alone.
	Nested bool
	Sides  map[SideKey]SideWindows
	// Truncate is set for a stage that processes restrictions.
	Truncate *Aside
	// Ends says that such a stage's restrictions do: their halves are halves of the
	// work. Of one without an end the second half is in the far future.
	Ends bool
}

// SideWindows are the windows of a side input.
type SideWindows struct {
	Fn             window.Fn
	LatenessMillis int64
	// Whole says that a window can be read only when it has ended: nothing of it
	// is fired before.
	Whole bool
	// Map is set for windows of an SDK's own kind: it tells which of them a window
	// of the main input looks at.
	Map *Aside
}

func (c *compiler) stream(plan *fusion.Plan) error {
	s := &Stream{Stages: len(plan.Graph.Stages), Sides: map[SideKey]SideWindows{}}
	for _, st := range plan.Graph.Stages {
		s.Played = s.Played || st.Root == jobgraph.RootTestStream
	}
	for _, env := range c.comps.GetEnvironments() {
		for _, has := range env.GetCapabilities() {
			s.Nested = s.Nested || strings.HasPrefix(has, versionGo)
		}
	}
	id := c.p.Stage.RootTransform
	s.Root, s.RootOrigin = c.comps.GetTransforms()[id], id
	if o := c.p.Stage.Origins[id]; o != "" {
		s.RootOrigin = o
	}
	s.LatenessMillis = c.strategy(c.p.Stage.Collection).GetAllowedLateness()
	if c.p.Node.Root == jobgraph.RootGroup {
		for _, in := range s.Root.GetInputs() { // one
			var err error
			if s.Panes, err = pane.StrategyOf(c.strategy(in)); err != nil {
				return err
			}
		}
	}
	for i := range c.p.Stage.SideInputs {
		side := &c.p.Stage.SideInputs[i]
		ws := c.strategy(side.Collection)
		fn, err := window.FnOf(ws)
		if err != nil {
			return err
		}
		w := SideWindows{Fn: fn, LatenessMillis: ws.GetAllowedLateness()}
		switch ws.GetTrigger().GetTrigger().(type) {
		case nil, *pipepb.Trigger_Default_, *pipepb.Trigger_Never_:
			w.Whole = true
		}
		if fn.Kind == window.CustomKind {
			if w.Map, err = c.mapping(side, ws); err != nil {
				return err
			}
		}
		s.Sides[SideKey{side.Transform, side.Tag}] = w
	}
	c.p.Stream = s
	if c.p.Node.Root != jobgraph.RootRestrictions {
		return nil
	}
	var err error
	s.Truncate, err = c.truncation()
	s.Ends = c.ends()
	return err
}

// ends reports whether what is made of the stage's restrictions is bounded. Of
// one that makes nothing nobody knows.
func (c *compiler) ends() bool {
	known := false
	for _, id := range c.p.Stage.Transforms {
		if t := c.comps.GetTransforms()[id]; t.GetSpec().GetUrn() == urnProcessRestrictions {
			for _, out := range t.GetOutputs() {
				if c.comps.GetPcollections()[out].GetIsBounded() != pipepb.IsBounded_BOUNDED {
					return false
				}
				known = true
			}
		}
	}
	return known
}

func (c *compiler) strategy(collection string) *pipepb.WindowingStrategy {
	pc := c.comps.GetPcollections()[collection]
	return c.comps.GetWindowingStrategies()[pc.GetWindowingStrategyId()]
}

// Nest makes the encoding of an element that stands alone that of one among
// others.
func Nest(c *coders.Coder, b []byte) []byte {
	switch c.URN() {
	case coders.URNBytes, coders.URNStringUTF8, coders.URNLengthPrefix:
		return append(binary.AppendUvarint(nil, uint64(len(b))), b...)
	case coders.URNKV:
		n, err := c.Key().Skip(b)
		if err != nil {
			return b // whoever cuts it will say so
		}
		return append(b[:n:n], Nest(c.Value(), b[n:])...)
	}
	return b
}
