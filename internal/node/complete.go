package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"trestle/internal/blobstore"
	"trestle/internal/replica"
)

// completeEvery is how often what could not be fetched is tried again.
const completeEvery = time.Minute

// complete gets what jobs need that have not ended, and that this member of the
// group lacks: it was down when they were submitted, or was added later, or was
// too slow. It goes on until ctx ends.
func (c *caretaker) complete(ctx context.Context) {
	tick := time.NewTicker(completeEvery)
	defer tick.Stop()
	whole := map[string]bool{} // by job: all was here
	for {
		active := map[string]bool{}
		for _, s := range c.node.board.Jobs() {
			if s.State.Terminal() || ctx.Err() != nil {
				continue
			}
			active[s.ID] = whole[s.ID]
			if whole[s.ID] {
				continue
			}
			if err := c.completeJob(ctx, s.ID); err == nil {
				active[s.ID] = true
			} else if ctx.Err() == nil {
				c.node.log.Warn("not all that a job needs is here yet", "job", s.ID, "err", err)
			}
		}
		whole = active
		select {
		case <-c.lacking:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// completeJob gets what one job lacks here.
func (c *caretaker) completeJob(ctx context.Context, id string) error {
	n := c.node
	j, err := n.board.Job(id)
	if err != nil {
		return nil //nolint:nilerr // forgotten a moment ago
	}
	err = n.fetchBlobs(ctx, id, j.Pipeline, j.Plan)
	if err == nil {
		err = n.fetchArtifacts(ctx, id, j.Plan)
	}
	// It may have ended meanwhile, and what has come then would stay.
	if j, gone := n.board.Job(id); gone == nil && !j.State.Terminal() {
		return err
	}
	c.clearUp(id)
	select {
	case c.ended <- id:
	case <-ctx.Done():
	}
	return nil
}

// fetchBlobs gets those of a job's blobs that are not here.
func (n *Node) fetchBlobs(ctx context.Context, job string, hashes ...string) error {
	if n.cfg.BlobStore != "" {
		return nil // all see the same
	}
	var missing []string
	for _, h := range hashes {
		has, err := n.blobs.Has(ctx, h)
		if err != nil {
			return err
		}
		if !has {
			missing = append(missing, h)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return n.replicator.Fetch(ctx, job, replica.Items(replica.Blob, missing...)...)
}

// fetchArtifacts gets those of a job's artifacts that are not here.
func (n *Node) fetchArtifacts(ctx context.Context, job, plan string) error {
	b, err := n.blobs.Get(ctx, plan)
	if err != nil {
		return err
	}
	names, err := artifactsOf(b)
	if err != nil {
		return err
	}
	have := n.artifacts.Names(job)
	missing := slices.DeleteFunc(names, func(name string) bool { return slices.Contains(have, name) })
	if len(missing) == 0 {
		return nil
	}
	return n.replicator.Fetch(ctx, job, replica.Items(replica.Artifact, missing...)...)
}

// bucketBlobs are the group's blobs in an object store, where other groups may
// have theirs.
func (n *Node) bucketBlobs(url string) (blobstore.Store, error) {
	b, err := openBucket(context.Background(), url)
	if err != nil {
		return nil, err
	}
	return blobstore.In(b, func() (string, error) {
		if g := n.raft.Group(); g != "" {
			return g, nil
		}
		return "", fmt.Errorf("the group of JobManager %s isn't founded yet", n.name())
	}), nil
}
