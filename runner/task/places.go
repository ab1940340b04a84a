package task

import (
	"context"
	"fmt"

	"trestle/runner/jobgraph"
	"trestle/shuffle"
)

// remoteAtOnce is how many other TaskManagers a blocking input is read from at
// once. Each takes a window of memory.
const remoteAtOnce = 4

// A place is where some partitions of an input are.
type place struct {
	at  string // a TaskManager, or "" for the store
	ids []shuffle.PartitionID
}

// places groups an input's partitions by where they are, in order of first
// mention.
func places(job string, in Input) []*place {
	by := map[string]*place{}
	var all []*place
	for i, p := range in.Partitions {
		at := ""
		if in.At != nil {
			at = in.At[i]
		}
		pl := by[at]
		if pl == nil {
			pl = &place{at: at}
			by[at] = pl
			all = append(all, pl)
		}
		pl.ids = append(pl.ids, shuffle.PartitionID{Job: job, Dataset: string(in.Dataset), Index: p.Index, Attempt: p.Attempt})
	}
	return all
}

// openInput reads an input wherever its partitions are.
func (r *run) openInput(ctx context.Context, in Input) (blockReader, error) {
	ds := r.prog.Dataset(in.Dataset)
	if ds == nil {
		return nil, fmt.Errorf("task %s is to read dataset %s, which its stage doesn't", r.spec.ID, in.Dataset)
	}
	if in.At != nil && len(in.At) != len(in.Partitions) {
		return nil, fmt.Errorf("task %s was told of %d partitions of dataset %s, and of %d places", r.spec.ID, len(in.Partitions), in.Dataset, len(in.At))
	}
	all := &fanIn{}
	if ds.Exchange != jobgraph.Pipelined {
		all.most = remoteAtOnce
	}
	for _, p := range places(r.spec.Job, in) {
		rd, err := r.openPlace(ctx, ds, p, in.Lo, in.Hi)
		if err != nil {
			all.Close()
			return nil, err
		}
		all.readers = append(all.readers, rd)
	}
	if len(all.readers) == 1 {
		return all.readers[0], nil
	}
	return all, nil
}

func (r *run) openPlace(ctx context.Context, ds *jobgraph.Dataset, p *place, lo, hi int) (blockReader, error) {
	cfg := &r.m.cfg
	exchange := string(ds.Exchange)
	switch {
	case p.at == "" && exchange == shuffle.Blocking && cfg.Shuffle.Stores():
		return cfg.Shuffle.Open(ctx, shuffle.Stored, p.ids, lo, hi)
	case p.at == "" || p.at == cfg.Name:
		return cfg.Shuffle.Open(ctx, exchange, p.ids, lo, hi)
	case cfg.Network == nil:
		return nil, fmt.Errorf("task %s is to read dataset %s from TaskManager %s, but knows of no other TaskManager", r.spec.ID, ds.ID, p.at)
	case ds.Exchange == jobgraph.Pipelined:
		return cfg.Network.OpenOnce(p.at, exchange, p.ids, lo, hi), nil
	}
	return cfg.Network.Open(p.at, exchange, p.ids, lo, hi), nil
}
