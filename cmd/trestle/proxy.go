package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/internal/node"

	"github.com/spf13/cobra"
)

func proxyCommand() *cobra.Command {
	p := &proxy{}
	var addr, cert, key, ca, readyFile string
	var insecure bool
	c := &cobra.Command{
		Use:   "proxy --to=HOST:PORT[,…]",
		Short: "Open a local port to a job endpoint that wants certificates",
		Long: `Open a local port to a job endpoint that wants certificates.

No Beam SDK can show a certificate. The proxy listens on this machine, and hands
every connection on to the first JobManager of --to that answers, by mutual TLS
(their --job-tls-addr):
  trestle proxy --to=jm1:8443,jm2:8443,jm3:8443 --tls-cert=me.crt --tls-key=me.key --tls-ca=ca.crt
  … --runner=PortableRunner --job_endpoint=127.0.0.1:8099`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(p.to) == 0 {
				return errors.New("--to: which job endpoints?")
			}
			if err := node.CheckAddress(addr, insecure); err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			security, err := cluster.LoadSecurity(cert, key, ca)
			if err != nil {
				return err
			}
			p.security, p.log = security, slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			listener, err := net.Listen("tcp", addr)
			if err != nil {
				return fmt.Errorf("--addr=%s: %w", addr, err)
			}
			if readyFile != "" {
				if err := node.WriteReady(readyFile, node.Ready{Job: listener.Addr().String(), PID: os.Getpid()}); err != nil {
					listener.Close()
					return err
				}
				defer os.Remove(readyFile)
			}
			fmt.Fprintf(c.OutOrStdout(), "job endpoint %s leads to %v\n", listener.Addr(), p.to)
			return p.serve(c.Context(), listener)
		},
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:8099", "`HOST:PORT` to listen at")
	c.Flags().StringSliceVar(&p.to, "to", nil, "`HOST:PORT,…` of job endpoints with TLS; the first that answers is used")
	c.Flags().StringVar(&cert, "tls-cert", "", "`FILE` of the client's certificate (trestle certs --client)")
	c.Flags().StringVar(&key, "tls-key", "", "`FILE` of its key")
	c.Flags().StringVar(&ca, "tls-ca", "", "`FILE` of the authority's certificate")
	c.Flags().StringVar(&readyFile, "ready-file", "", "`FILE` to write {\"job\",\"pid\"} to as JSON once the proxy serves")
	c.Flags().BoolVar(&insecure, "insecure-listen", false, "allow --addr beyond this machine: whoever reaches it may then run code")
	return c
}

// A proxy hands connections on.
type proxy struct {
	to       []string
	security *cluster.Security
	log      *slog.Logger
}

const reachWithin = 3 * time.Second

// serve hands on what comes until ctx ends; then it cuts what is left.
func (p *proxy) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		conns.Go(func() {
			defer c.Close()
			if err := p.handOn(ctx, c); err != nil {
				p.log.Error("a connection was not handed on", "err", err)
			}
		})
	}
}

// handOn carries bytes both ways until one side has said all and the other too,
// or either is gone.
func (p *proxy) handOn(ctx context.Context, near net.Conn) error {
	far, err := p.reach(ctx)
	if err != nil {
		return err
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close() // its reader is to hear of it
			return
		}
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite() // if it is gone the other way ends, too
		}
	}
	both.Go(func() { carry(far, near) })
	both.Go(func() { carry(near, far) })
	both.Wait()
	return nil
}

// reach connects to the first that answers.
func (p *proxy) reach(ctx context.Context) (net.Conn, error) {
	var errs []error
	for _, addr := range p.to {
		dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: reachWithin}, Config: p.security.ClientTLS()}
		soon, cancel := context.WithTimeout(ctx, reachWithin)
		c, err := dialer.DialContext(soon, "tcp", addr)
		cancel()
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}
