package group

import "fmt"

// recordBytes is about how many bytes of values a record has at most, unless
// one value is larger.
const recordBytes = 32 << 10

// spill writes the table as a run and empties it.
func (g *Grouper) spill() error {
	t := g.table
	if t.count == 0 {
		return nil
	}
	if g.file == nil {
		file, err := newSpillFile(g.cfg.Dir)
		if err != nil {
			return fmt.Errorf("group: %w", err)
		}
		g.file = file
	}
	w := newRunWriter(g.cfg.Budget, g.file)
	slots := t.sorted()
	for i, slot := range slots {
		if i%ahead == 0 {
			g.touched += t.touchHeads(slots[i:min(i+ahead, len(slots))])
		}
		if err := g.spillGroup(w, uint32(slot)); err != nil {
			w.drop()
			return fmt.Errorf("group: %w", err)
		}
	}
	t.reset()
	r, err := w.finish()
	if err != nil {
		return fmt.Errorf("group: %w", err)
	}
	g.runs = append(g.runs, r)
	return nil
}

// spillGroup writes the records of one group.
func (g *Grouper) spillGroup(w *runWriter, addr uint32) error {
	t := g.table
	h := t.head(addr)
	r := record{hash: h.hash, ts: h.ts, winLen: int(h.winLen), key: t.windowKey(addr, h)}
	if g.cfg.Merging {
		return g.spillItems(w, r, h.first)
	}
	s := t.span(h.first)
	r.count, r.values = int(s.count), t.values(h.first, s)
	if s.next == 0 {
		return w.add(&r)
	}
	// Several spans, small ones at first: their values get a key together.
	g.scratch = append(g.scratch[:0], r.values...)
	for next := s.next; next != 0; next = s.next {
		s = t.span(next)
		values := t.values(next, s)
		if len(g.scratch)+len(values) > recordBytes {
			r.values = g.scratch
			if err := w.add(&r); err != nil {
				return err
			}
			g.scratch, r.count = g.scratch[:0], 0
		}
		g.scratch = append(g.scratch, values...)
		r.count += int(s.count)
	}
	r.values = g.scratch
	return w.add(&r)
}

// spillItems writes the values of a key with windows that merge, by the start
// of their windows. Each is a record, for other runs' come in between.
func (g *Grouper) spillItems(w *runWriter, r record, span uint32) error {
	g.items = g.table.sortedItems(g.items[:0], span)
	for _, addr := range g.items {
		r.values, r.count = cutItem(g.table.at(addr)), 1
		r.start = int64(decodeItem(r.values).Start)
		if err := w.add(&r); err != nil {
			return err
		}
	}
	return nil
}
