package group

import (
	"context"
	"errors"
	"io"

	"trestle/internal/membudget"
)

// mostFanIn is how many runs are read at once: their blocks must fit memory,
// and reading must stay reading of long pieces.
const mostFanIn = 64

// A merge reads several runs as one. It is a heap of readers whose least
// record is at the top; equal records come in the order of the runs, so that
// values keep the order in which they were added.
type merge struct {
	readers []*runReader
}

// newMerge opens runs. close must be called, also after an error of next.
func newMerge(budget *membudget.Budget, runs []run) (*merge, error) {
	m := &merge{}
	for i, r := range runs {
		reader := &runReader{budget: budget, run: r, index: i}
		if err := reader.next(); err != nil {
			reader.drop()
			if errors.Is(err, io.EOF) {
				continue
			}
			m.close()
			return nil, err
		}
		m.readers = append(m.readers, reader)
	}
	for i := len(m.readers)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
	return m, nil
}

// top is the least record, or nil at the end. It is valid until advance.
func (m *merge) top() *record {
	if len(m.readers) == 0 {
		return nil
	}
	return &m.readers[0].record
}

// advance goes on to the next record.
func (m *merge) advance() error {
	r := m.readers[0]
	switch err := r.next(); {
	case errors.Is(err, io.EOF):
		r.drop()
		last := len(m.readers) - 1
		m.readers[0] = m.readers[last]
		m.readers = m.readers[:last]
	case err != nil:
		return err
	}
	m.sink(0)
	return nil
}

// sink restores the heap below i.
func (m *merge) sink(i int) {
	for {
		child := 2*i + 1
		if child >= len(m.readers) {
			return
		}
		if child+1 < len(m.readers) && m.less(child+1, child) {
			child++
		}
		if !m.less(child, i) {
			return
		}
		m.readers[i], m.readers[child] = m.readers[child], m.readers[i]
		i = child
	}
}

func (m *merge) less(i, j int) bool {
	a, b := m.readers[i], m.readers[j]
	if a.record.hash != b.record.hash {
		return a.record.hash < b.record.hash
	}
	c := a.record.compare(&b.record)
	return c < 0 || c == 0 && a.index < b.index
}

func (m *merge) close() {
	for _, r := range m.readers {
		r.drop()
	}
	m.readers = nil
}

// fanIn is how many runs a grouper of that much memory reads at once.
func fanIn(memory int64) int {
	return int(min(max(memory/(2*blockBytes), 4), mostFanIn))
}

// reduce merges neighbouring runs until there are at most fan. It closes the
// file that they were in, and gives the one that they are in then.
func reduce(ctx context.Context, budget *membudget.Budget, runs []run, in *spillFile, dir string, fan int) ([]run, *spillFile, error) {
	for len(runs) > fan {
		out, err := newSpillFile(dir)
		if err != nil {
			return runs, in, err
		}
		var merged []run
		for first := 0; first < len(runs); first += fan {
			r, err := mergeRuns(ctx, budget, out, runs[first:min(first+fan, len(runs))])
			if err != nil {
				out.close()
				return runs, in, err
			}
			merged = append(merged, r)
		}
		in.close()
		runs, in = merged, out
	}
	return runs, in, nil
}

// mergeRuns writes runs as one.
func mergeRuns(ctx context.Context, budget *membudget.Budget, file *spillFile, runs []run) (run, error) {
	m, err := newMerge(budget, runs)
	if err != nil {
		return run{}, err
	}
	defer m.close()
	w := newRunWriter(budget, file)
	for n := 0; m.top() != nil; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			w.drop()
			return run{}, context.Cause(ctx)
		}
		if err := w.add(m.top()); err != nil {
			w.drop()
			return run{}, err
		}
		if err := m.advance(); err != nil {
			w.drop()
			return run{}, err
		}
	}
	return w.finish()
}
