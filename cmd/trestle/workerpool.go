package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"trestle/harness/pool"
	"trestle/internal/node"

	"github.com/spf13/cobra"
)

func workerPoolCommand() *cobra.Command {
	var addr, readyFile, dir string
	var goWorker, insecure bool
	var env []string
	var most int
	c := &cobra.Command{
		Use:   "worker-pool [flags] -- COMMAND [ARG...]",
		Short: "Start SDK workers on the request of a runner (EXTERNAL environments)",
		Long: `Start SDK workers on the request of a runner (Beam's external worker pool).

Pipelines use it with the environment type EXTERNAL and this pool's address as
environment config. For each worker that a runner wants, COMMAND is started with
the runner's endpoints in its environment, as an SDK container would be told:
  trestle worker-pool -- python -m apache_beam.runners.worker.sdk_worker_main
  trestle worker-pool --go-worker -- ./mypipeline
SIGTERM or SIGINT ends the pool and all its workers.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := node.CheckAddress(addr, insecure); err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			server, err := pool.New(pool.Options{
				Command: args, GoWorker: goWorker, Env: env, Dir: dir, MaxWorkers: most, Log: log,
				Output: func(worker string, line []byte) { log.Info(string(line), "worker", worker) },
			})
			if err != nil {
				return err
			}
			listener, err := net.Listen("tcp", addr)
			if err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			if readyFile != "" {
				if err := node.WriteReady(readyFile, node.Ready{Pool: listener.Addr().String(), PID: os.Getpid()}); err != nil {
					listener.Close()
					return err
				}
				defer os.Remove(readyFile)
			}
			fmt.Fprintf(c.OutOrStdout(), "worker pool at %s\n", listener.Addr())
			return server.Serve(c.Context(), listener)
		},
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:50000", "`HOST:PORT` to listen at")
	c.Flags().StringVar(&readyFile, "ready-file", "", "`FILE` to write {\"pool\",\"pid\"} to as JSON once the pool serves")
	c.Flags().StringVar(&dir, "dir", "", "`DIR` for the workers' directories; the system's temporary one if empty")
	c.Flags().BoolVar(&goWorker, "go-worker", false, "COMMAND is a Go pipeline's own binary")
	c.Flags().StringArrayVar(&env, "env", nil, "`NAME=VALUE` for the workers' environment; may be given several times")
	c.Flags().IntVar(&most, "max-workers", 256, "most workers at one time")
	c.Flags().BoolVar(&insecure, "insecure-listen", false, "allow --addr beyond this machine, where anyone may start workers")
	return c
}
