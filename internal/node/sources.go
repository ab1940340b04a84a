package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trestle/internal/blobstore"
	"trestle/runner"
	"trestle/runner/graph"
	"trestle/runner/jobgraph"
	"trestle/transforms/kafka"

	"go.yaml.in/yaml/v3"
)

// Transforms are those that Trestle brings along, for expansion services.
func Transforms() kafka.Provider {
	return kafka.Provider{ParseYAML: yaml.Unmarshal}
}

// sources finds out what the bounded sources of jobs hold.
type sources struct {
	blobs blobstore.Store
	// fetch gets a job's blobs from other JobManagers; nil where there are none,
	// or one store for all.
	fetch func(ctx context.Context, job string, blobs ...string) error
}

const (
	// bindTime bounds how long one source may keep others waiting.
	bindTime = 5 * time.Minute
	// planAgain is the pause before a plan is asked for again.
	planAgain = 500 * time.Millisecond
)

// plan gets a job's plan, from whoever has it. The one who has it may be away for
// a moment: the job has been accepted, and is not to end for that.
func (s sources) plan(ctx context.Context, job, hash string) ([]byte, error) {
	for {
		b, err := s.blobs.Get(ctx, hash)
		if err != nil && s.fetch != nil {
			if err = s.fetch(ctx, job, hash); err == nil {
				b, err = s.blobs.Get(ctx, hash)
			}
		}
		if err == nil {
			return b, nil
		}
		pause := time.NewTimer(planAgain)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// Bind asks the source that a stage of a stored job begins with.
func (s sources) Bind(ctx context.Context, job, plan string, stage jobgraph.StageID) (runner.Bounds, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bindTime, fmt.Errorf("it took more than %s to find out what is to be read", bindTime))
	defer cancel()
	b, err := s.plan(ctx, job, plan)
	if err != nil {
		return runner.Bounds{}, fmt.Errorf("stage %s: what it is to read can't be found out: %w", stage, err)
	}
	run, err := unmarshalStoredJob(b)
	if err != nil {
		return runner.Bounds{}, err
	}
	p := run.Plan.Stages[stage]
	if p == nil {
		return runner.Bounds{}, fmt.Errorf("stage %s: the job's plan has none", stage)
	}
	root := run.Plan.Components.GetTransforms()[p.RootTransform]
	name := root.GetUniqueName()
	// Named by who reads it: the Impulse is none of the author's doing.
	for _, id := range p.Transforms {
		name = run.Plan.Components.GetTransforms()[id].GetUniqueName()
		break
	}
	bound := graph.BoundOf(root)
	if bound.GetUrn() != kafka.URNBound {
		return runner.Bounds{}, fmt.Errorf("transform %q: it reads a source of the kind %q, which this JobManager doesn't know", name, bound.GetUrn())
	}
	value, notes, err := askAlone(ctx, bound.GetPayload())
	if err != nil {
		return runner.Bounds{}, fmt.Errorf("transform %q: %w", name, err)
	}
	for i := range notes {
		notes[i] = fmt.Sprintf("transform %q: %s", name, notes[i])
	}
	return runner.Bounds{Value: value, Notes: notes}, nil
}
