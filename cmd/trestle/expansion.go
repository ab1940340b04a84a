package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"trestle/internal/node"
	"trestle/jobservice/expansion"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
)

func expansionServiceCommand() *cobra.Command {
	var addr, readyFile string
	var insecure bool
	c := &cobra.Command{
		Use:   "expansion-service",
		Short: "Serve Trestle's own transforms (Kafka) to pipelines of all SDKs",
		Long: `Serve Trestle's own transforms (Kafka) to pipelines of all SDKs.

The job endpoint of trestle serve is such a service, too: this one is for where
pipelines are built away from it. Stock wrappers need no more than its address:
  ReadFromKafka(…, expansion_service='127.0.0.1:8097')`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := node.CheckAddress(addr, insecure); err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			listener, err := net.Listen("tcp", addr)
			if err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			if readyFile != "" {
				if err := node.WriteReady(readyFile, node.Ready{Expansion: listener.Addr().String(), PID: os.Getpid()}); err != nil {
					listener.Close()
					return err
				}
				defer os.Remove(readyFile)
			}
			fmt.Fprintf(c.OutOrStdout(), "expansion service at %s\n", listener.Addr())
			return serveExpansion(c.Context(), listener)
		},
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:8097", "`HOST:PORT` to listen at")
	c.Flags().StringVar(&readyFile, "ready-file", "", "`FILE` to write {\"expansion\",\"pid\"} to as JSON once it serves")
	c.Flags().BoolVar(&insecure, "insecure-listen", false, "allow --addr beyond this machine")
	return c
}

// serveExpansion serves until ctx ends.
func serveExpansion(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.ConnectionTimeout(3*time.Second))
	expansion.New(node.Transforms()).Register(server)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	cut := time.AfterFunc(time.Second, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	return <-failed
}
