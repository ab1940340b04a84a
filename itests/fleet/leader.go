package fleet

import (
	"context"
	"fmt"
	"time"
)

// A Standing is who leads, as one JobManager sees it.
type Standing struct {
	Leader string // "" when it knows of none
	Term   uint64
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
