package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"trestle/internal/cluster"
)

// A group that was restored from a backup counts its terms from an earlier one.
// Its leader looks like one that has lost its office, which must not be obeyed.
// What tells them apart is a majority: the term that the TaskManager has heard
// of was one that a majority had voted for, and who is of that majority would
// not follow a leader of a lower term unless its memory was lost.

// confirmCall asks a JobManager to have a majority confirm, now, that it leads.
var confirmCall = cluster.NewCall[struct{}, leadership]("taskmanagers", "Confirm")

// confirmTime is how long that may take.
const confirmTime = 5 * time.Second

// A RestoredError ends a TaskManager whose JobManagers have gone back in time.
// When it starts again it works for them as they are now.
type RestoredError struct {
	Addr      string // of the JobManager that leads
	Group     string
	Term, Was uint64
}

func (e *RestoredError) Error() string {
	return fmt.Sprintf("the group %.8s of JobManagers was restored from a backup: a majority follows the one at %s in term %d, after a term %d; this TaskManager has worked for what is no more, and must be started again", e.Group, e.Addr, e.Term, e.Was)
}

// confirm answers when a majority has confirmed, after the question, that this
// JobManager leads.
func (s *Server) confirm(ctx context.Context, _ *struct{}) (*leadership, error) {
	l := s.leads()
	if !l.Leads {
		return nil, s.notLeader()
	}
	if s.cfg.Confirm == nil {
		return nil, errors.New("this JobManager can't have its leadership confirmed")
	}
	if err := s.cfg.Confirm(ctx); err != nil {
		return nil, err
	}
	if now := s.leads(); !now.Leads || now.Term != l.Term {
		return nil, s.notLeader()
	}
	return &l, nil
}

// restored is a RestoredError if the JobManager that leads for a lower term than
// was heard of does so rightly, else why that isn't known.
func (c *Client) restored(ctx context.Context, addr string) error {
	c.mu.Lock()
	group, was := c.group, c.term
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	l, err := confirmCall.Do(ctx, c.cfg.Connections.ToJobManager(addr), &struct{}{})
	switch {
	case err != nil:
		return err
	case l.Leads && l.Group == group && l.Term < was:
		return &RestoredError{Addr: addr, Group: group, Term: l.Term, Was: was}
	}
	return errors.New("another JobManager leads by now")
}
