package node

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"trestle/jobservice"
	"trestle/jobservice/expansion"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// politely is how long clients may take to read the end of their answers.
	politely = time.Second
	// greeting is how long a client may take from its connection to its first
	// words. gRPC's end waits for them, even Stop, so it must be well within the
	// time that we have to stop.
	greeting = 3 * time.Second
)

// serveJobs serves the job endpoint until ctx ends.
func (n *Node) serveJobs(ctx context.Context) error {
	opts := append(jobservice.ServerOptions(),
		// A client that vanished is noticed, and its streams end.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(greeting),
	)
	server := grpc.NewServer(opts...)
	n.jobService.Register(server)
	expansion.New(Transforms()).Register(server)
	failed := make(chan error, 2)
	serving := 0
	for _, l := range []net.Listener{n.ports.job, n.ports.jobTLS} {
		if l != nil {
			serving++
			go func() { failed <- server.Serve(l) }()
		}
	}
	select {
	case err := <-failed:
		server.Stop()
		return err
	case <-ctx.Done():
	}
	// Streams that follow a job would go on as long as it does.
	cut := time.AfterFunc(politely, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	var errs []error
	for range serving {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}

// serveWeb serves the web page until ctx ends.
func (n *Node) serveWeb(ctx context.Context) error {
	server := &http.Server{
		Handler:           n.web,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(n.ports.web) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	n.closeOnce.Do(func() { close(n.closing) })
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), politely)
	defer cancel()
	if err := server.Shutdown(soon); err != nil {
		_ = server.Close() // connections that are left
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
