// Package cluster is the wire between Trestle's own processes: JobManagers and
// TaskManagers call each other over it.
//
// It is gRPC without generated code. A method is a value that names what goes
// in and what comes out (Call, Talk); both ends use the same value, so they
// can't disagree. Go structs travel as JSON, because control messages are few
// and people read them in a trace; data travels as a Frame, raw bytes in a
// pooled buffer that are neither parsed nor copied on the way.
//
//	var stat = cluster.NewCall[StatRequest, StatAnswer]("blobs", "Stat")
//
//	server.Handle(stat.Serve(func(ctx context.Context, in *StatRequest) (*StatAnswer, error) { … }))
//	answer, err := stat.Do(ctx, peers.To("10.0.0.1:7070"), &StatRequest{…})
//
// What it promises: all calls from one process to another share one connection,
// and a stream that nobody reads holds up its sender after a stated window, and
// nobody else. A peer that can't be reached or has gone silent is an
// UnreachableError within seconds, with its address. A handler that panics
// fails its call, not the process. Messages have a largest size.
//
// Security says who may talk: processes show each other certificates of one
// authority, by TLS 1.3, or speak in the clear, which is for loopback. What is
// open to the network without certificates doesn't start unless that is spelled
// out. The same Security makes the connections of Raft.
//
// Retrying, and what a silent peer means for the work it has in hand, are left
// to callers.
package cluster

import (
	"log/slog"
	"time"
)

// Options of a Server or of Peers. The zero value is good.
type Options struct {
	Log *slog.Logger // default: none
	// Silence is how long a connection may be silent before it is probed; the
	// end that dials never probes before 10 s. Default: 3 s.
	Silence time.Duration
	// Patience is how long a probe, a dial or unconfirmed bytes may stay
	// unanswered before the peer counts as gone. Default: 3 s.
	Patience time.Duration
	// StreamWindow is how many bytes of one stream may be on their way that the
	// receiver hasn't asked for. Default: 1 MiB.
	StreamWindow int32
	// MaxMessage bounds one message, both ways. Default: 64 MiB.
	MaxMessage int
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Silence <= 0 {
		o.Silence = 3 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 3 * time.Second
	}
	if o.StreamWindow <= 0 {
		o.StreamWindow = 1 << 20
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 64 << 20
	}
	return o
}

// connWindow is what may be on its way on one connection. gRPC gives it back
// as bytes arrive, read or not, so that no stream waits for another.
func (o Options) connWindow() int32 { return 16 * min(o.StreamWindow, 1<<26) }
