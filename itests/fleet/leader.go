package fleet

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// A Standing is who leads, as one JobManager sees it.
type Standing struct {
	Leader  string // "" when it knows of none
	Term    uint64
	Applied uint64 // how far its state has come
	Hash    string // of that state
}

// Standing asks a JobManager who leads.
func (n *Node) Standing(ctx context.Context) (Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var s Standing
	return s, n.Get(ctx, "/api/v1/cluster", &s)
}

// AwaitLeader waits until one of the nodes names a leader among them, of a
// later term, who himself says so.
func (f *Fleet) AwaitLeader(ctx context.Context, limit time.Duration, after uint64, among []*Node) (*Node, uint64, error) {
	var leader *Node
	var term uint64
	var last error
	err := Await(ctx, limit, "a leader", func() bool {
		for _, n := range among {
			s, err := n.Standing(ctx)
			if err != nil {
				last = err
				continue
			}
			if s.Term > after && s.Leader == n.Name {
				leader, term = n, s.Term
				return true
			}
		}
		return false
	})
	if err != nil && last != nil {
		err = fmt.Errorf("%w (%w)", err, last)
	}
	return leader, term, err
}

// Cluster runs trestle cluster on the node's host.
func (n *Node) Cluster(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := n.host.CommandContext(ctx, n.fleet.cfg.Trestle, append(append([]string{"cluster"}, args...), n.clusterFlags()...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("trestle cluster %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// clusterFlags say where and as whom trestle cluster asks.
func (n *Node) clusterFlags() []string {
	return append([]string{"--cluster-addr=" + n.ClusterAddr()}, n.identity()...)
}

// AddMember makes a JobManager one of the group.
func (n *Node) AddMember(ctx context.Context, m *Node) error {
	return n.Cluster(ctx, "add", m.Name+"="+m.RaftAddr())
}

// RemoveMember takes a JobManager out of the group.
func (n *Node) RemoveMember(ctx context.Context, m *Node) error {
	return n.Cluster(ctx, "remove", m.Name)
}

// Transfer has this node, which leads, hand over.
func (n *Node) Transfer(ctx context.Context, to *Node) error {
	return n.Cluster(ctx, "transfer", to.Name)
}
