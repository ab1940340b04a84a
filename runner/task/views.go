package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"trestle/runner/bundle"
	"trestle/runner/fusion"
	"trestle/runner/jobgraph"
	"trestle/runner/side"
)

// views are the side inputs of one task, ready to be read.
type views struct {
	handles []*side.Handle
	by      map[bundle.SideKey]*side.Handle
}

// openViews waits for the side inputs of the task's stage. The tasks of a
// TaskManager share them.
func (r *run) openViews(ctx context.Context) error {
	r.views = &views{by: map[bundle.SideKey]*side.Handle{}}
	for k, s := range r.prog.SideInput {
		h, generation, err := r.openView(ctx, s)
		if err != nil {
			r.views.close()
			return fmt.Errorf("side input %q of %s: %w", s.Tag, s.Transform, err)
		}
		r.views.handles = append(r.views.handles, h)
		r.views.by[k] = h
		r.sideTokens = append(r.sideTokens, sideToken(k, generation))
	}
	return nil
}

func (r *run) openView(ctx context.Context, s *fusion.SideInput) (h *side.Handle, generation string, err error) {
	inputs, err := r.sideInputs(s.Datasets)
	if err != nil {
		return nil, "", err
	}
	generation = generationOf(inputs)
	key := side.Key{Job: r.spec.Job, Collection: s.Collection, Access: side.Access(s.Access), Generation: generation}
	h, err = r.m.views.Acquire(ctx, key, func(ctx context.Context) (*side.View, error) {
		src := &readSource{w: r.prog.Feed[s.Collection]}
		defer src.close()
		for _, in := range inputs {
			rd, err := r.openInput(ctx, in)
			if err != nil {
				return nil, err
			}
			src.readers = append(src.readers, rd)
			src.w = r.prog.Feed[r.prog.Dataset(in.Dataset).Collection]
		}
		opt := side.Options{Budget: r.m.cfg.Budget, Dir: r.m.cfg.SpillDir}
		return side.Build(ctx, src, src.w, side.Access(s.Access), opt)
	})
	return h, generation, err
}

// generationOf tells inputs apart by what is in them, wherever it is.
func generationOf(inputs []Input) string {
	var b strings.Builder
	for _, in := range inputs {
		fmt.Fprint(&b, in.Dataset, in.Partitions, in.Lo, in.Hi, ";")
	}
	return b.String()
}

// sideInputs picks the inputs that hold these datasets.
func (r *run) sideInputs(ids []jobgraph.DatasetID) ([]Input, error) {
	var ins []Input
	for _, id := range ids {
		i := slices.IndexFunc(r.spec.SideInputs, func(in Input) bool { return in.Dataset == id })
		if i < 0 {
			return nil, fmt.Errorf("task %v was not told where dataset %s is", r.spec.ID, id)
		}
		ins = append(ins, r.spec.SideInputs[i])
	}
	return ins, nil
}

func (v *views) close() {
	for _, h := range v.handles {
		h.Release()
	}
}

// Next makes a readSource a side.Source.
func (s *readSource) Next(ctx context.Context) (elems []byte, count int, err error) {
	for len(s.readers) > 0 {
		elems, count, err = s.readers[0].Next(ctx)
		if !errors.Is(err, io.EOF) {
			return elems, count, err
		}
		s.readers[0].Close()
		s.readers = s.readers[1:]
	}
	return nil, 0, io.EOF
}
