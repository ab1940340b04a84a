package bundle

import (
	"context"
	"slices"
	"sync"
)

// RunApart runs bundles that have no key in common, at once, each to its commit
// as Run would: while one waits for an answer about its state, the others work.
// Each has a lane of its own. Results are in the order of parts. After an error
// the others are given up; what has committed stays, so that the task can't go
// on.
func (r *Runner) RunApart(ctx context.Context, parts []*Input) ([]*Result, error) {
	results := make([]*Result, len(parts))
	if len(parts) == 1 {
		var err error
		results[0], err = r.Run(ctx, parts[0])
		return results, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run := func(by *Runner, i int) {
		res, err := by.Run(ctx, parts[i])
		if err != nil {
			cancel(err) // the first error is everybody's
		}
		results[i] = res
	}
	var running sync.WaitGroup
	for i := 1; i < len(parts); i++ {
		by := r.part(i)
		running.Go(func() { run(by, i) })
	}
	run(r, 0)
	running.Wait()
	if slices.Contains(results, nil) {
		return nil, context.Cause(ctx)
	}
	return results, nil
}

// part is a runner for a bundle beside r's. It keeps no worker: those who wait
// for a lane then wait for bundles only, and never for readers of their output.
func (r *Runner) part(i int) *Runner {
	p := *r
	p.lease, p.index, p.Loose = nil, i, true
	return &p
}

// Apart reports whether a worker of the stage works on several bundles at once,
// as if it were several workers.
func (p *Program) Apart() bool { return p.multiCore && p.HasWorker() }
