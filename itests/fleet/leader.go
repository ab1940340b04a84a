package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// A Standing is what the leader says of its group.
type Standing struct {
	Term    uint64
	Members []struct {
		Name    string
		Leader  bool
		Applied uint64 // its place in the log
		State   string // hash of what the log folds to there
		Error   string // why it didn't say
	}
	TaskManagers []string
}

// Leader is the name of the one that leads; "" if none does.
func (s *Standing) Leader() string {
	for _, m := range s.Members {
		if m.Leader {
			return m.Name
		}
	}
	return ""
}

// admin runs trestle cluster beside the fleet, and asks these nodes.
func (f *Fleet) admin(ctx context.Context, ask []*Node, args ...string) ([]byte, error) {
	var addrs []string
	for _, n := range ask {
		addrs = append(addrs, n.ClusterAddr())
	}
	args = append(append([]string{"cluster"}, args...), "--jobmanagers="+strings.Join(addrs, ","))
	cmd := exec.CommandContext(ctx, f.cfg.Trestle, append(args, f.identity(admin)...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("trestle %s: %w: %s", strings.Join(args, " "), errors.Join(ctx.Err(), err), stderr.String())
	}
	return out, nil
}

// Status asks the leader that these nodes know of.
func (f *Fleet) Status(ctx context.Context, ask ...*Node) (*Standing, error) {
	// The leader asks all members, and waits some seconds for one that is silent.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := f.admin(ctx, ask, "status", "--json")
	if err != nil {
		return nil, err
	}
	var s Standing
	return &s, json.Unmarshal(out, &s)
}

// AwaitLeader waits until one of the nodes leads, in a term later than after.
func (f *Fleet) AwaitLeader(ctx context.Context, limit time.Duration, after uint64, among []*Node) (*Node, uint64, error) {
	var leader *Node
	var term uint64
	last := errors.New("none says so")
	err := Await(ctx, limit, "a leader", func() bool {
		for _, n := range among {
			if !n.Leads(ctx) {
				continue
			}
			s, err := f.Status(ctx, n)
			if err != nil {
				last = err
			} else if s.Leader() != n.Name || s.Term <= after {
				last = fmt.Errorf("%q leads in term %d", s.Leader(), s.Term)
			} else {
				leader, term = n, s.Term
				return true
			}
		}
		return false
	})
	if err != nil {
		err = fmt.Errorf("%w (%w)", err, last)
	}
	return leader, term, err
}

// Leads asks a JobManager whether it leads. One that is slow to answer doesn't.
func (n *Node) Leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	c, err := n.Counters(ctx)
	return err == nil && c["trestle_leader"] == 1
}

// adminTime bounds a change of the group.
const adminTime = 30 * time.Second

// AddMember makes a JobManager one of the group. This node may be any of it.
func (n *Node) AddMember(ctx context.Context, m *Node) error {
	return n.change(ctx, "add", m.Name, m.ClusterAddr())
}

// RemoveMember takes a JobManager out of the group.
func (n *Node) RemoveMember(ctx context.Context, m *Node) error {
	return n.change(ctx, "remove", m.Name)
}

// Transfer makes another JobManager the leader.
func (n *Node) Transfer(ctx context.Context, to *Node) error {
	return n.change(ctx, "transfer", to.Name)
}

func (n *Node) change(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTime)
	defer cancel()
	_, err := n.fleet.admin(ctx, []*Node{n}, args...)
	return err
}
