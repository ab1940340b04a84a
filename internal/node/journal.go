package node

import (
	"context"
	"log/slog"
	"sync/atomic"

	"trestle/raftmeta"
	"trestle/raftmeta/catalog"
	"trestle/runner"
)

// A journal is a log on this machine's disk alone. It tells the board what it
// holds, and counts for Prometheus.
type journal struct {
	*raftmeta.Log
	board *runner.Board
	log   *slog.Logger
	state *catalog.State // what the log folds to

	appends, records atomic.Int64
}

// Replay is runner.Journal.
func (j *journal) Replay(ctx context.Context, fold func(catalog.Record) error) error {
	j.state = catalog.NewState()
	shown := catalog.NewState()
	err := j.Log.Replay(ctx, func(r catalog.Record) error {
		if err := j.state.Apply(r); err != nil {
			// Written by a Trestle that saw it otherwise; it has no effect anywhere.
			j.log.Warn("ignored a record of the journal", "err", err)
			return nil
		}
		if err := shown.Apply(r); err != nil {
			return err
		}
		return fold(r)
	})
	if err == nil {
		j.board.Restore(0, shown)
	}
	return err
}

// Append is runner.Journal.
func (j *journal) Append(ctx context.Context, records ...catalog.Record) error {
	if err := j.Log.Append(ctx, records...); err != nil {
		return err
	}
	j.appends.Add(1)
	j.records.Add(int64(len(records)))
	for _, r := range records {
		if err := j.state.Apply(r); err != nil {
			return err
		}
	}
	j.board.Apply(0, records)
	// A failure to shrink is no failure to keep.
	if err := j.Compact(ctx, j.state.Snapshot); err != nil && ctx.Err() == nil {
		j.log.Warn("compact journal", "err", err)
	}
	return nil
}
