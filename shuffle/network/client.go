package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/membudget"
	"trestle/shuffle/driver"
)

// A ClientConfig says how others are read. Budget and Peer must be set.
type ClientConfig struct {
	// Budget counts what has come and was not taken yet.
	Budget *membudget.Budget
	// Peer is the connection to a TaskManager. It may wait a while for one that
	// it doesn't know yet.
	Peer func(ctx context.Context, taskManager string) (*cluster.Conn, error)
	// Window is how many bytes of elements one reading may have under way; 0
	// means 1 MiB, and less where Budget is small.
	Window int64
	// Retry is how long a reading tries to go on while it can't; 0 means 5 s.
	Retry time.Duration
}

const retryDefault = 5 * time.Second

// A Client reads what other TaskManagers keep. It is safe for concurrent use.
type Client struct{ cfg ClientConfig }

// NewClient returns a client. It has nothing to close.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Window == 0 {
		cfg.Window = min(windowDefault, max(leastWindow, cfg.Budget.Limit()/64))
	}
	if cfg.Retry == 0 {
		cfg.Retry = retryDefault
	}
	return &Client{cfg: cfg}
}

// Open reads sub-partitions [lo, hi) of partitions that a TaskManager keeps.
// Nothing is asked of it before the first Next, or Ready.
func (c *Client) Open(taskManager, exchange string, ids []driver.PartitionID, lo, hi int) *Reader {
	return c.open(taskManager, exchange, ids, lo, hi, "")
}

// OpenOnce is Open of pipelined partitions.
func (c *Client) OpenOnce(taskManager, exchange string, ids []driver.PartitionID, lo, hi int) *Reader {
	var name [16]byte
	_, _ = rand.Read(name[:]) // never fails
	return c.open(taskManager, exchange, ids, lo, hi, hex.EncodeToString(name[:]))
}

func (c *Client) open(from, exchange string, ids []driver.PartitionID, lo, hi int, name string) *Reader {
	r := &Reader{
		c: c, from: from, ids: ids,
		what:  request{Exchange: exchange, Once: name != "", Reader: name, Lo: lo, Hi: hi, Window: c.cfg.Window},
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		ready: make(chan struct{}),
	}
	if len(ids) == 0 {
		r.err = io.EOF
	}
	return r
}
