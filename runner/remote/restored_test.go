package remote

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"trestle/internal/cluster"
)

// A lower term than was heard of ends a TaskManager, but only when a majority
// confirms that its leader leads: then the log was restored. One who has merely
// lost his office is waited out.
func TestRestored(t *testing.T) {
	var asked atomic.Int64
	var majority atomic.Bool
	jm := newJobManager(t, ServerConfig{
		Group: func() string { return "ours" },
		Confirm: func(context.Context) error {
			asked.Add(1)
			if !majority.Load() {
				return errors.New("no majority")
			}
			return nil
		},
	})
	stop := jm.lead(t, 5)
	peers := cluster.NewPeers(cluster.Insecure(), cluster.Options{Patience: time.Second})
	t.Cleanup(peers.Close)
	c := NewClient(ClientConfig{Local: newRecorder("tm1"), Connections: peers, JobManagers: []string{jm.addr}})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(within(t)) }()
	jm.join(t)
	stop()
	stop = jm.lead(t, 3)
	for asked.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	stop()
	stop = jm.lead(t, 6) // it had lost its office, and has it again
	jm.join(t)
	stop()
	majority.Store(true)
	jm.lead(t, 4)
	restored := (*RestoredError)(nil)
	if err := receive(t, ended); !errors.As(err, &restored) || restored.Term != 4 || restored.Was != 6 || restored.Addr != jm.addr {
		t.Errorf("it ended with %v", err)
	}
	if len(jm.sessions) > 0 {
		t.Error("it has joined one who leads for a lower term")
	}
}
