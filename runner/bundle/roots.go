package bundle

import (
	"fmt"

	"trestle/coders"
	"trestle/fnapi"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// checkRoots makes sure that what a worker keeps of an element that it has cut,
// and what it gives back, are elements of the stage's input: the one is what the
// next try of the bundle reads, the other what somebody else does.
func (r *Runner) checkRoots(b *fnapi.Bundle, primary []*fnpb.BundleApplication, residual []*fnpb.DelayedBundleApplication) error {
	for _, a := range primary {
		if err := r.checkRoot(b, "keep of an element", a); err != nil {
			return err
		}
	}
	for _, d := range residual {
		if err := r.checkRoot(b, "give back", d.GetApplication()); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) checkRoot(b *fnapi.Bundle, does string, a *fnpb.BundleApplication) error {
	var v coders.Value
	rest, err := r.Program.Input.Next(a.GetElement(), &v)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes are left over", len(rest))
	}
	if err == nil {
		return nil
	}
	return &fnapi.ProtocolError{
		Worker: r.lease.Worker().Name(), Instruction: b.ID(),
		What: fmt.Sprintf("what it would %s, for input %.100q of transform %.100q, is no element: %v", does, a.GetInputId(), a.GetTransformId(), err),
	}
}
