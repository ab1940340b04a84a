package task

import (
	"context"

	"trestle/coders"
	"trestle/runner/pane"
	"trestle/runner/window"
)

// arrived is what came of one key.
type arrived struct {
	k      *groupKey
	elems  []pane.Element
	values [][]byte
}

// addMerging is add where windows merge by their SDK's rule. It is asked once
// for all elements of a block.
func (g *grouping) addMerging(ctx context.Context, block []byte) error {
	all, err := g.sort(block)
	if err != nil {
		return err
	}
	now := g.now()
	sets := make([][]window.Window, len(all))
	for i, a := range all {
		g.ops = g.panes.Advance(&a.k.panes, now, g.ops[:0])
		if err := g.do(a.k, nil); err != nil {
			return err
		}
		sets[i] = g.panes.Unmerged(&a.k.panes, a.elems)
	}
	merges, err := g.merger.merge(ctx, sets)
	if err != nil {
		return err
	}
	for i, a := range all {
		g.keys.keep(a.k.Key(), a.k) // what has advanced may have been forgotten
		if g.ops, err = g.panes.Add(&a.k.panes, now, a.elems, merges[i], g.ops[:0]); err != nil {
			return err
		}
		if err := g.do(a.k, a.values); err != nil {
			return err
		}
	}
	return nil
}

// sort brings the elements of a block together by key, in the order in which
// the keys first came.
func (g *grouping) sort(block []byte) ([]*arrived, error) {
	var all []*arrived
	byKey := map[string]*arrived{}
	var v coders.Value
	for len(block) > 0 {
		var err error
		if block, err = g.w.Next(block, &v); err != nil {
			return nil, err
		}
		a := byKey[string(v.Key())]
		if a == nil {
			a = &arrived{k: g.key(v.Key())}
			byKey[string(v.Key())] = a
			all = append(all, a)
		}
		wins, err := decodeWindows(g.w, nil, &v)
		if err != nil {
			return nil, err
		}
		a.elems = append(a.elems, pane.Element{Timestamp: v.Timestamp(), Windows: wins})
		a.values = append(a.values, v.KVValue())
	}
	return all, nil
}
