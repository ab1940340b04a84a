package node

import (
	"context"
	"errors"
	"os"

	"trestle/runner/joblog"
)

// joinTaskSide makes what a TaskManager has.
func (n *Node) joinTaskSide() (err error) {
	cfg := taskSideConfig{
		Name:      n.name(),
		Dir:       n.path("task"),
		Slots:     n.cfg.Slots,
		Memory:    dataShare(n.cfg.Memory),
		Workers:   n.cfg.WorkersPerEnvironment,
		Processes: processPolicy(n.cfg),
		Messages:  n.workerMessages,
		Output: func(job, worker string, line []byte) {
			n.mail.output(job, worker, n.side.stored.hide(job, string(line)))
		},
		Start: n.cfg.WorkerStartTimeout,
		Log:   n.log,
	}
	if n.cfg.Role == Embedded {
		cfg.Artifacts, cfg.Open = stagedFiles{n.artifacts}, n.blobs.Get
		n.side, err = newTaskSide(cfg)
		return err
	}
	return n.joinAway(cfg)
}

// workerMessages keeps what workers log, with the author's names for
// transforms.
func (n *Node) workerMessages(job string, entries ...joblog.Entry) error {
	for i := range entries {
		if entries[i].Transform != "" {
			entries[i].Transform = n.side.stored.transformName(job, entries[i].Transform)
		}
		entries[i].Text = n.side.stored.hide(job, entries[i].Text)
	}
	n.mail.logged(job, entries)
	if err := n.mail.sink.Append(job, entries...); err != nil {
		n.log.Error("messages are lost", "job", job, "messages", len(entries), "err", err)
		return err
	}
	return nil
}

// clearTaskFiles removes what is temporary. What a TaskManager's tasks have
// finished stays: after a restart others may still want it.
func (n *Node) clearTaskFiles() error {
	if n.side == nil {
		return nil
	}
	if n.cfg.Role == Embedded && !n.busy() {
		return os.RemoveAll(n.path("task"))
	}
	return errors.Join(os.RemoveAll(n.path("task/spill")), os.RemoveAll(n.path("task/workers")))
}

// busy reports whether a job has not ended, as far as is known.
func (n *Node) busy() bool {
	select {
	case <-n.led:
	default:
		return true // the Board has not been told of all jobs
	}
	for _, j := range n.board.Jobs() {
		if !j.State.Terminal() {
			return true
		}
	}
	return false
}

// taskParts are what runs in a TaskManager for others.
func (n *Node) taskParts() []part {
	return []part{
		{name: "data port", run: func(ctx context.Context) error {
			defer n.side.network.Close()
			return n.server.Serve(ctx, n.ports.data)
		}},
		{name: "session", run: n.work},
	}
}
