package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/raftmeta"
)

// A MemberStatus is one JobManager of a group.
type MemberStatus struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Voter   bool   `json:"voter"`
	Leader  bool   `json:"leader,omitempty"`
	// Applied is its place in the log, and State the hash of what the log folds
	// to there: members at one place have one hash. Error is why it didn't say.
	Applied uint64 `json:"applied,omitempty"`
	State   string `json:"state,omitempty"`
	Error   string `json:"error,omitempty"`
}

// A GroupStatus is a group of JobManagers as its leader sees it.
type GroupStatus struct {
	Term    uint64         `json:"term"`
	Members []MemberStatus `json:"members"`
	// TaskManagers are those that the group counts on, by name.
	TaskManagers []string `json:"taskManagers"`
}

type memberRequest struct {
	Name    string
	Address string
}

var (
	callStatus   = cluster.NewCall[struct{}, GroupStatus]("members", "Status")
	callState    = cluster.NewCall[struct{}, MemberStatus]("members", "State")
	callAdd      = cluster.NewCall[memberRequest, struct{}]("members", "Add")
	callRemove   = cluster.NewCall[memberRequest, struct{}]("members", "Remove")
	callTransfer = cluster.NewCall[memberRequest, struct{}]("members", "Transfer")
)

// memberMethods answer trestle cluster.
func (n *Node) memberMethods() []cluster.Method {
	change := func(call cluster.Call[memberRequest, struct{}], do func(ctx context.Context, r *memberRequest) error) cluster.Method {
		return call.Serve(func(ctx context.Context, r *memberRequest) (*struct{}, error) {
			if err := n.mustLead(); err != nil {
				return nil, err
			}
			return &struct{}{}, do(ctx, r)
		})
	}
	return []cluster.Method{
		callStatus.Serve(func(ctx context.Context, _ *struct{}) (*GroupStatus, error) {
			if err := n.mustLead(); err != nil {
				return nil, err
			}
			return n.groupStatus(ctx), nil
		}),
		callState.Serve(func(context.Context, *struct{}) (*MemberStatus, error) {
			index, hash := n.raft.Hash()
			return &MemberStatus{Applied: index, State: string(hash)}, nil
		}),
		change(callAdd, func(ctx context.Context, r *memberRequest) error {
			return n.raft.AddMember(ctx, raftmeta.Member{ID: r.Name, Addr: r.Address, Voter: true})
		}),
		change(callRemove, func(ctx context.Context, r *memberRequest) error { return n.raft.RemoveMember(ctx, r.Name) }),
		change(callTransfer, func(ctx context.Context, r *memberRequest) error { return n.raft.Transfer(ctx, r.Name) }),
	}
}

// mustLead tells who asks the wrong member whom to ask.
func (n *Node) mustLead() error {
	if n.lead.leading() != nil {
		return nil
	}
	addr, _ := n.lead.group.Leader()
	return &cluster.Error{Kind: kindNotLeader, Detail: addr, Text: "another JobManager leads"}
}

func (n *Node) groupStatus(ctx context.Context) *GroupStatus {
	ctx, cancel := context.WithTimeout(ctx, showFor)
	defer cancel()
	leader, term, _ := n.raft.Leader()
	s := &GroupStatus{Term: term, TaskManagers: n.board.TaskManagers()}
	for _, m := range n.raft.Members() {
		s.Members = append(s.Members, MemberStatus{Name: m.ID, Address: m.Addr, Voter: m.Voter, Leader: m.ID == leader.ID})
	}
	var asked sync.WaitGroup
	for i := range s.Members {
		asked.Go(func() {
			m := &s.Members[i]
			got, err := callState.Do(ctx, n.peers.ToJobManager(m.Address), &struct{}{})
			if err != nil {
				m.Error = err.Error()
				return
			}
			m.Applied, m.State = got.Applied, got.State
		})
	}
	asked.Wait()
	return s
}

// A Group is a group of JobManagers, seen from outside.
type Group struct {
	peers *cluster.Peers
	addrs []string
}

// OpenGroup returns the group whose members, or some of them, are at the
// addresses. Close it.
func OpenGroup(addrs []string, cert, key, ca string) (*Group, error) {
	if len(addrs) == 0 {
		return nil, errors.New("--jobmanagers: which?")
	}
	security, err := securityOf(Config{TLSCert: cert, TLSKey: key, TLSCA: ca})
	if err != nil {
		return nil, err
	}
	return &Group{cluster.NewPeers(security, cluster.Options{}), addrs}, nil
}

// Close hangs up.
func (g *Group) Close() { g.peers.Close() }

// Status asks the leader how the group is.
func (g *Group) Status(ctx context.Context) (s *GroupStatus, err error) {
	err = g.ask(ctx, func(ctx context.Context, to *cluster.Conn) error {
		s, err = callStatus.Do(ctx, to, &struct{}{})
		return err
	})
	return s, err
}

// Add makes a process that waits for it (--join) a member.
func (g *Group) Add(ctx context.Context, name, address string) error {
	return g.change(ctx, callAdd, memberRequest{name, address})
}

// Remove takes a member out, for good.
func (g *Group) Remove(ctx context.Context, name string) error {
	return g.change(ctx, callRemove, memberRequest{Name: name})
}

// Transfer makes another member the leader; "" leaves the choice to the group.
func (g *Group) Transfer(ctx context.Context, name string) error {
	return g.change(ctx, callTransfer, memberRequest{Name: name})
}

func (g *Group) change(ctx context.Context, call cluster.Call[memberRequest, struct{}], r memberRequest) error {
	return g.ask(ctx, func(ctx context.Context, to *cluster.Conn) error {
		_, err := call.Do(ctx, to, &r)
		return err
	})
}

// askEach is how long one member has to answer.
const askEach = 10 * time.Second

// ask goes to the members in turn until one is, or knows, the leader.
func (g *Group) ask(ctx context.Context, do func(context.Context, *cluster.Conn) error) error {
	todo, seen := append([]string(nil), g.addrs...), map[string]bool{}
	var errs []error
	for len(todo) > 0 {
		addr := todo[0]
		todo = todo[1:]
		if seen[addr] {
			continue
		}
		seen[addr] = true
		one, cancel := context.WithTimeout(ctx, askEach)
		err := do(one, g.peers.ToJobManager(addr))
		cancel()
		said := (*cluster.Error)(nil)
		switch {
		case err == nil:
			return nil
		case errors.As(err, &said) && said.Kind == kindNotLeader && said.Detail != "":
			todo = append([]string{said.Detail}, todo...)
		case errors.As(err, &said) && said.Kind != kindNotLeader:
			return err
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("no JobManager that leads was found:\n%w", errors.Join(errs...))
}

// parseMembers reads NAME=HOST:PORT,….
func parseMembers(list string) ([]raftmeta.Member, error) {
	var members []raftmeta.Member
	for _, one := range strings.Split(list, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(one), "=")
		if !ok || name == "" || addr == "" {
			return nil, fmt.Errorf("--members: %q must be NAME=HOST:PORT", one)
		}
		members = append(members, raftmeta.Member{ID: name, Addr: addr, Voter: true})
	}
	return members, nil
}
