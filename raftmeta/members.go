package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

var errNodeClosed = errors.New("the node is closed")

// A Member is a node of a group.
type Member struct {
	ID    string `json:"id"`
	Addr  string `json:"addr"`            // for the other members
	Voter bool   `json:"voter,omitempty"` // else it only listens
}

// advertised is a stream that tells Raft the address that others use.
type advertised struct {
	*greeted
	addr string
}

type namedAddr string

func (a namedAddr) Network() string { return "tcp" }
func (a namedAddr) String() string  { return string(a) }

// Addr is net.Listener.
func (a *advertised) Addr() net.Addr { return namedAddr(a.addr) }

// pollEvery is how often a node is asked that doesn't call by itself.
const pollEvery = 50 * time.Millisecond

// Bootstrap founds the group of these members, all of them voters, if there is
// none yet. It may be called on each of them, with the same list, and again at
// each start: where the node is of a group it does nothing. Only the first
// member of the list founds, and only after every other has said that it is of
// no group; so a member that lost its directory, the first one too, doesn't
// found another group beside the one that there is, but waits for its leader's
// call. A group of one asks nobody.
//
// It returns when this node is of a group, or ctx ends.
func (n *Node) Bootstrap(ctx context.Context, members []Member) error {
	if err := n.checkFounders(members); err != nil {
		return fmt.Errorf("found the group: %w", err)
	}
	n.identity.mu.Lock()
	n.identity.list = fingerprint(members)
	is := n.identity.is
	n.identity.mu.Unlock()
	first := members[0].ID == n.cfg.ID
	if first && is.Group == "" {
		if err := n.askAll(ctx, members[1:]); err != nil {
			return fmt.Errorf("found the group: %w", err)
		}
		var err error
		if is, err = n.identity.found(); err != nil {
			return fmt.Errorf("found the group: %w", err)
		}
	}
	if is.Founder && n.empty() { // perhaps the process ended here before
		if err := n.writeFirst(members); err != nil {
			return fmt.Errorf("found the group: %w", err)
		}
	}
	for n.identity.group() == "" {
		if !pause(ctx, n.life, pollEvery) {
			return errors.Join(ctx.Err(), n.life.Err())
		}
	}
	return nil
}

// Founded reports whether there is nothing left for Bootstrap to do: the node is
// of a group, and if it was to found it, it has. A process may end in between.
func (n *Node) Founded() bool {
	n.identity.mu.Lock()
	is := n.identity.is
	n.identity.mu.Unlock()
	return is.Group != "" && !(is.Founder && n.empty())
}

func (n *Node) checkFounders(members []Member) error {
	var ids, addrs []string
	for _, m := range members {
		if err := m.check(); err != nil {
			return err
		}
		if slices.Contains(ids, m.ID) || slices.Contains(addrs, m.Addr) {
			return fmt.Errorf("%s at %s stands in the list twice", m.ID, m.Addr)
		}
		ids, addrs = append(ids, m.ID), append(addrs, m.Addr)
		if m.ID == n.cfg.ID && m.Addr != n.cfg.Advertise {
			return fmt.Errorf("this node, %s, is at %s, and the list has it at %s", m.ID, n.cfg.Advertise, m.Addr)
		}
	}
	if !slices.Contains(ids, n.cfg.ID) {
		return fmt.Errorf("this node, %s, isn't in the list of members", n.cfg.ID)
	}
	return nil
}

func (m *Member) check() error {
	if !idPattern.MatchString(m.ID) {
		return fmt.Errorf("%q is no id for a member", m.ID)
	}
	if _, _, err := net.SplitHostPort(m.Addr); err != nil || len(m.Addr) > 255 {
		return fmt.Errorf("%s has no address: %q isn't host:port", m.ID, m.Addr)
	}
	return nil
}

// askAll returns when each of the others has said that it is of no group, or
// this node has become a member of one meanwhile.
func (n *Node) askAll(ctx context.Context, others []Member) error {
	complained := time.Now()
	for len(others) > 0 && n.identity.group() == "" {
		m := others[0]
		a, err := n.stream.ask(m.ID, m.Addr, helloTimeout)
		var refused *RefusedError
		switch {
		case errors.As(err, &refused):
			return err
		case err == nil && a.group == "":
			others = others[1:]
			continue
		case err == nil:
			err = fmt.Errorf("%s is of group %.8s: waiting for the call of its leader", m.ID, a.group)
		}
		if time.Since(complained) > 5*time.Second {
			n.cfg.Log.Warn("can't found the group yet: every member must be there and of none", "err", err)
			complained = time.Now()
		}
		if !pause(ctx, n.life, pollEvery) {
			return errors.Join(err, ctx.Err(), n.life.Err())
		}
	}
	return nil
}

func (n *Node) writeFirst(members []Member) error {
	var c raft.Configuration
	for _, m := range members {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Addr)})
	}
	if err := n.raft.BootstrapCluster(c).Error(); err != nil {
		return err
	}
	n.trans.electNow(n.life)
	return nil
}

// Group is the id of this node's group, "" if it is of none.
func (n *Node) Group() string { return n.identity.group() }

// Members are those of the latest configuration that this node knows.
func (n *Node) Members() []Member {
	var members []Member
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		members = append(members, Member{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	return members
}

// Leader is who leads as far as this node knows, and the latest term that it
// knows of.
func (n *Node) Leader() (leader Member, term uint64, ok bool) {
	addr, id := n.raft.LeaderWithID()
	return Member{string(id), string(addr), true}, n.raft.CurrentTerm(), id != ""
}

// AddMember makes a node, which must be of no group or of this one, a member.
// A voter first listens until it has caught up: one that can't be reached, or
// not in ctx's time, would else count in every majority and answer in none. It
// is then left out again. Only the leader can add.
func (n *Node) AddMember(ctx context.Context, m Member) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("add a member: %w", err)
	}
	for _, is := range n.Members() {
		if is.ID == m.ID && is.Addr == m.Addr && is.Voter == m.Voter {
			return nil
		}
		if is.ID == m.ID && (is.Addr != m.Addr || is.Voter) || is.ID != m.ID && is.Addr == m.Addr {
			return fmt.Errorf("add member %s at %s: %s at %s is one: remove it before", m.ID, m.Addr, is.ID, is.Addr)
		}
	}
	if err := n.change(ctx, n.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.Addr), 0, timeLeft(ctx))); err != nil {
		return fmt.Errorf("add member %s: %w", m.ID, err)
	}
	if !m.Voter {
		return nil
	}
	if err := n.caughtUp(ctx, m); err != nil {
		_ = n.raft.RemoveServer(raft.ServerID(m.ID), 0, time.Second).Error() // it harms nobody if it stays
		return fmt.Errorf("add member %s at %s: %w", m.ID, m.Addr, err)
	}
	if err := n.change(ctx, n.raft.AddVoter(raft.ServerID(m.ID), raft.ServerAddress(m.Addr), 0, timeLeft(ctx))); err != nil {
		return fmt.Errorf("add member %s: %w", m.ID, err)
	}
	return nil
}

// caughtUp returns when the node has all that is in the log now.
func (n *Node) caughtUp(ctx context.Context, m Member) error {
	want := n.raft.LastIndex()
	for {
		a, err := n.stream.ask(m.ID, m.Addr, helloTimeout)
		if err == nil && a.group == n.identity.group() && a.last >= want {
			return nil
		}
		var refused *RefusedError
		if errors.As(err, &refused) {
			return err
		}
		if err == nil && a.group != "" && a.group != n.identity.group() {
			return fmt.Errorf("it is of group %.8s, and this is group %.8s", a.group, n.identity.group())
		}
		if err == nil {
			err = fmt.Errorf("it has %d of %d entries", a.last, want)
		}
		if n.raft.State() != raft.Leader {
			return ErrNotLeader
		}
		if !pause(ctx, n.life, pollEvery) {
			return errors.Join(err, ctx.Err(), n.life.Err())
		}
	}
}

// RemoveMember removes a node from the group. It should be stopped for good:
// it waits for calls that don't come. Only the leader can remove, also itself.
func (n *Node) RemoveMember(ctx context.Context, id string) error {
	members := n.Members()
	at := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	if at < 0 {
		return nil
	}
	if voters := slices.DeleteFunc(members, func(m Member) bool { return !m.Voter || m.ID == id }); len(voters) == 0 {
		return fmt.Errorf("remove member %s: it is the last one that votes", id)
	}
	if err := n.change(ctx, n.raft.RemoveServer(raft.ServerID(id), 0, timeLeft(ctx))); err != nil {
		return fmt.Errorf("remove member %s: %w", id, err)
	}
	return nil
}

// Transfer hands leadership to that member, which must vote; "" leaves the
// choice to Raft. It returns when the other has been told to stand for
// election.
func (n *Node) Transfer(ctx context.Context, id string) error {
	var err error
	if id == "" {
		err = n.change(ctx, n.raft.LeadershipTransfer())
	} else {
		members := n.Members()
		at := slices.IndexFunc(members, func(m Member) bool { return m.ID == id && m.Voter })
		if at < 0 {
			return fmt.Errorf("transfer leadership to %s: it is no voting member", id)
		}
		if id == n.cfg.ID {
			if n.raft.State() == raft.Leader {
				return nil
			}
			return fmt.Errorf("transfer leadership to %s: %w", id, ErrNotLeader)
		}
		err = n.change(ctx, n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(members[at].Addr)))
	}
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// change waits for one of Raft's answers. It comes at the latest when
// leadership is lost, so that ctx is looked at before only.
func (n *Node) change(ctx context.Context, f raft.Future) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return notLeading(f.Error())
}

func timeLeft(ctx context.Context) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return max(time.Until(at), time.Millisecond)
	}
	return 0
}

// parseCount reads a number of an answer, 0 if it is none.
func parseCount(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
