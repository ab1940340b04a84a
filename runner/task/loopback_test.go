package task_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"trestle/internal/cluster"
	"trestle/runner/task"
	"trestle/shuffle"
	"trestle/shuffle/driver"
	"trestle/shuffle/network"
)

// loopback is the network between the TaskManagers of a rig.
type loopback struct {
	t     *testing.T
	peers *cluster.Peers

	mu    sync.Mutex
	addrs map[string]string
	open  map[string]net.Listener
}

// newNetwork returns nil for a lone TaskManager.
func newNetwork(t *testing.T, managers int) *loopback {
	if managers < 2 {
		return nil
	}
	n := &loopback{
		t: t, peers: cluster.NewPeers(cluster.Insecure(), cluster.Options{}),
		addrs: map[string]string{}, open: map[string]net.Listener{},
	}
	t.Cleanup(n.peers.Close)
	return n
}

func (n *loopback) peer(_ context.Context, name string) (*cluster.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, ok := n.addrs[name]
	if !ok {
		return nil, fmt.Errorf("nobody is called %s", name)
	}
	return n.peers.To(addr), nil
}

// join gives a TaskManager an address, and the way to the others.
func (n *loopback) join(m *member, cfg *task.Config) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.addrs[m.name], n.open[m.name] = l.Addr().String(), l
	n.mu.Unlock()
	cfg.Peer = n.peer
	cfg.Network = network.NewClient(network.ClientConfig{Budget: m.budget, Peer: n.peer, Retry: 2 * time.Second})
	cfg.QueueRetry = 2 * time.Second
}

// server serves what others ask of a TaskManager.
func (n *loopback) server(m *member, disk, pipes driver.Driver) func() (stop func()) {
	return func() func() {
		parts := network.NewServer(network.ServerConfig{
			Budget:    m.budget,
			Blocking:  map[string]driver.Driver{shuffle.Blocking: disk},
			Pipelined: map[string]driver.Driver{shuffle.Pipelined: pipes},
		})
		s := cluster.NewServer(cluster.Insecure(), cluster.Options{})
		s.Handle(parts.Methods()...)
		s.Handle(m.tm.Methods()...)
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			if err := s.Serve(ctx, n.open[m.name]); err != nil {
				n.t.Error(err)
			}
		})
		return sync.OnceFunc(func() {
			cancel()
			done.Wait()
			parts.Close()
		})
	}
}
