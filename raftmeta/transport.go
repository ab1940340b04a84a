package raftmeta

import (
	"context"
	"io"

	"github.com/hashicorp/raft"
)

// A transport is Raft's network transport, with three things added: calls name
// whom they mean and not only where; a node that has lost its memory doesn't
// vote; and a node that stands alone need not wait for an election.
type transport struct {
	*raft.NetworkTransport
	rpcs chan raft.RPC // to Raft; unbuffered
	// empty reports whether this node has neither log nor snapshot.
	empty func() bool
}

func newTransport(inner *raft.NetworkTransport, empty func() bool) *transport {
	return &transport{NetworkTransport: inner, rpcs: make(chan raft.RPC), empty: empty}
}

// run hands calls from the network to Raft, until ctx ends.
func (t *transport) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case rpc := <-t.NetworkTransport.Consumer():
			if resp := t.abstain(rpc.Command); resp != nil {
				rpc.Respond(resp, nil)
				continue
			}
			select {
			case <-ctx.Done():
				rpc.Respond(nil, raft.ErrRaftShutdown)
				return
			case t.rpcs <- rpc:
			}
		}
	}
}

// abstain answers for a node without any memory. It may have had one, and
// promised votes and kept entries: so it must not help to elect anyone before a
// leader has given it the log again. Only of a group that begins, where nobody
// has more than the first configuration, it elects the first leader.
func (t *transport) abstain(call any) any {
	switch c := call.(type) {
	case *raft.RequestVoteRequest:
		if c.LastLogIndex > 1 && t.empty() {
			return &raft.RequestVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
		}
	case *raft.RequestPreVoteRequest:
		if c.LastLogIndex > 1 && t.empty() {
			return &raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
		}
	}
	return nil
}

// electNow lets this node stand for election at once.
func (t *transport) electNow(ctx context.Context) {
	answer := make(chan raft.RPCResponse, 1)
	call := raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, RespChan: answer}
	select {
	case <-ctx.Done():
		return
	case t.rpcs <- call:
	}
	select {
	case <-ctx.Done():
	case <-answer:
	}
}

// Consumer is raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// AppendEntriesPipeline is raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, target(id, addr))
}

// AppendEntries is raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.NetworkTransport.AppendEntries(id, target(id, addr), args, resp)
}

// RequestVote is raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.NetworkTransport.RequestVote(id, target(id, addr), args, resp)
}

// RequestPreVote is raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.NetworkTransport.RequestPreVote(id, target(id, addr), args, resp)
}

// InstallSnapshot is raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, target(id, addr), args, resp, data)
}

// TimeoutNow is raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, target(id, addr), args, resp)
}
