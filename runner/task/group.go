package task

import (
	"context"
	"errors"
	"io"

	"trestle/runner/bundle"
	"trestle/runner/group"
	"trestle/runner/jobgraph"
)

// openGroup reads all of the task's input into a grouper and gives what it
// makes of it.
func (r *run) openGroup(ctx context.Context, br *bundle.Runner) (input, error) {
	src, err := r.openRead(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { src.close() }()
	if src.w == nil { // a stage that nothing feeds
		return newBatches(ctx, &readSource{}, r.m.cfg.Budget, r.limits()), nil
	}
	g := group.New(group.Config{
		Input:       src.w,
		Keyed:       r.prog.Node.Root == jobgraph.RootKeyed || r.prog.Merge != nil,
		Merging:     r.prog.Merging,
		Timestamp:   r.prog.Timestamp,
		StateBacked: r.prog.Large,
		LargeBytes:  r.m.cfg.LargeBytes,
		Budget:      r.m.cfg.Budget,
		Memory:      r.m.cfg.Budget.Limit() / int64(2*r.m.cfg.Slots),
		Dir:         r.m.cfg.SpillDir,
	})
	if err := addAll(ctx, g, src); err != nil {
		g.Close()
		return nil, err
	}
	r.large.Store(g.Large())
	if merger := newWindowMerger(r, br, src.w); merger != nil {
		// The source waits for a worker while the task may: it must not keep one.
		br.Loose = true
		merging := &mergeSource{
			groupSource: &groupSource{g: g, keyed: true}, w: src.w, by: r.prog.Timestamp, merger: merger, budget: r.m.cfg.Budget,
		}
		return newBatches(ctx, merging, r.m.cfg.Budget, r.limits()), nil
	}
	groups := &groupSource{g: g, keyed: r.prog.Node.Root == jobgraph.RootKeyed}
	if groups.keyed && r.prog.Sorted {
		sorted := &sortedSource{groupSource: groups, w: src.w, budget: r.m.cfg.Budget}
		return newBatches(ctx, sorted, r.m.cfg.Budget, r.limits()), nil
	}
	return newBatches(ctx, groups, r.m.cfg.Budget, r.limits()), nil
}

func addAll(ctx context.Context, g *group.Grouper, src *readSource) error {
	for len(src.readers) > 0 {
		block, _, err := src.readers[0].Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			src.readers[0].Close()
			src.readers = src.readers[1:]
		case err != nil:
			return err
		default:
			if err := g.Add(block); err != nil {
				return err
			}
		}
	}
	return g.Finish(ctx)
}

// groupSource gives a grouper's groups.
type groupSource struct {
	g     *group.Grouper
	keyed bool // each piece is whole elements
}

func (s *groupSource) fill(_ context.Context, dst []byte, most int) ([]byte, int, error) {
	count := 0
	for {
		out, n, err := s.g.Next(dst)
		if errors.Is(err, io.EOF) && len(dst) > 0 {
			return dst, count, nil // the next fill meets the end again
		}
		if err != nil {
			return dst, count, err
		}
		dst = out
		count += n
		// A message to a worker holds whole elements, however long.
		if (len(dst) >= chunkSize || count >= most) && (s.keyed || !s.g.More()) {
			return dst, count, nil
		}
	}
}

func (s *groupSource) more() bool           { return s.g.More() }
func (s *groupSource) mark() uint64         { return s.g.Large().Mark() }
func (s *groupSource) free(from, to uint64) { s.g.Large().Release(from, to) }

func (s *groupSource) close() {
	large := s.g.Large()
	s.g.Close()
	large.Close()
}
