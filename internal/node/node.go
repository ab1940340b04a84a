package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	"trestle/harness"
	"trestle/internal/blobstore"
	"trestle/internal/cluster"
	"trestle/internal/replica"
	"trestle/jobservice"
	"trestle/jobservice/artifact"
	"trestle/raftmeta"
	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/runner/remote"
	"trestle/web"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// embeddedName is what the processes of an embedded Trestle, which are one, are
// called in its log.
const embeddedName = "local"

// A Node is one process of Trestle. It has its addresses and its data directory
// from New on, and serves while Run runs.
type Node struct {
	cfg     Config
	log     *slog.Logger
	version string
	lock    *os.File // of the data directory

	security *cluster.Security
	peers    *cluster.Peers // nil where there is nobody else
	ports    ports

	mail *mailbox
	web  *web.Server
	side *taskSide // nil on a JobManager alone

	// Of a JobManager:
	raft       *raftmeta.Node
	members    []raftmeta.Member // that found the group
	board      *runner.Board
	blobs      blobstore.Store // pipelines, and what runs of them
	artifacts  *artifact.Store
	messages   *joblog.Store
	lead       *lead
	jobs       *jobs
	jobService *jobservice.Service
	caretaker  *caretaker
	contact    *contact        // nil where embedded
	sessions   *remote.Server  // of TaskManagers; nil where embedded
	server     *cluster.Server // of other processes' calls; nil where embedded
	replicator *replica.Replicator

	// Of a TaskManager alone:
	client *remote.Client
	files  *replica.Cache // of what JobManagers have

	led       chan struct{} // closed when this process leads for the first time
	ledOnce   sync.Once
	closing   chan struct{} // closed when requests that wait must end
	closeOnce sync.Once
}

// New takes the ports and the data directory. Close gives them back; so does
// Run.
func New(cfg Config, version string, log *slog.Logger) (n *Node, err error) {
	if err := errors.Join(cfg.Validate()...); err != nil {
		return nil, err
	}
	// Workers are started in directories of their own, and must find what is in
	// this one.
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	cfg.Data = data
	n = &Node{cfg: cfg, log: log, version: version, led: make(chan struct{}), closing: make(chan struct{})}
	defer func() {
		if err != nil {
			n.Close()
			n = nil
		}
	}()
	// Its lock is what keeps a second process out of the directory.
	if n.lock, err = lockDirectory(cfg.Data); err != nil {
		return n, err
	}
	n.bound()
	if n.security, err = securityOf(cfg); err != nil {
		return n, err
	}
	if err := n.ports.open(cfg, n.security); err != nil {
		return n, err
	}
	// Not before: what can't start leaves alone the file of who has the ports.
	if cfg.ReadyFile != "" {
		if err := os.Remove(cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return n, fmt.Errorf("remove the last run's ready file: %w", err)
		}
	}
	if cfg.Role != Embedded {
		n.peers = cluster.NewPeers(n.security, n.wire())
	}
	return n, n.join()
}

func securityOf(cfg Config) (*cluster.Security, error) {
	if cfg.TLSCert == "" {
		return cluster.Insecure(), nil
	}
	s, err := cluster.LoadSecurity(cfg.TLSCert, cfg.TLSKey, cfg.TLSCA)
	if err != nil {
		return nil, err
	}
	for of, role := range map[Role]cluster.Role{JobManager: cluster.JobManager, TaskManager: cluster.TaskManager} {
		if cfg.Role == of && !s.MayBe(role) {
			return nil, fmt.Errorf("--tls-cert=%s: is not a %s's: make one by trestle certs --%s=%s=HOST", cfg.TLSCert, role, role, s.Name())
		}
	}
	return s, nil
}

// wire is how the process talks to others. JobManagers send clients' calls on,
// with pipelines in them.
func (n *Node) wire() cluster.Options {
	o := cluster.Options{Log: n.log}
	if n.is(JobManager) {
		o.MaxMessage = jobservice.MaxMessageBytes
	}
	return o
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.Data, name) }

// is reports whether the process has a role, perhaps among others.
func (n *Node) is(r Role) bool { return n.cfg.Role&r != 0 }

// bound keeps the process within --memory: dataShare of it for data that may be
// spilled, the rest for what can't, and the collector works harder towards the
// end.
func (n *Node) bound() {
	memory := int64(n.cfg.Memory)
	debug.SetMemoryLimit(memory - max(memory/10, min(programBytes, memory/3)))
}

// programBytes is about what of the program itself is in memory, which the
// collector doesn't count.
const programBytes = 48 << 20

func dataShare(memory Size) int64 { return int64(memory) / 2 }

// join makes the rooms and gives each what it needs of the others.
func (n *Node) join() error {
	if n.is(JobManager) {
		if err := n.openStores(); err != nil {
			return err
		}
	}
	if n.is(TaskManager) {
		if err := n.joinTaskSide(); err != nil {
			return err
		}
	}
	if n.is(JobManager) {
		if err := n.joinJobSide(); err != nil {
			return err
		}
	}
	opts := web.Options{
		Version: n.version,
		Metrics: n.metricsHandler(),

		AnyHost:  n.cfg.InsecureListen,
		Profiles: n.cfg.Profiles,
		Closing:  n.closing,
		Log:      n.log,
	}
	if !n.is(JobManager) {
		n.web = web.New(nil, nil, opts)
		return nil
	}
	opts.JobEndpoint = n.ports.job.Addr().String()
	n.web = web.New(webJobs{n.jobs}, n.messages, opts)
	return nil
}

// stagedFiles are the artifacts of all jobs.
type stagedFiles struct{ store *artifact.Store }

// Open opens a staged file. Its name is its hash, so the job doesn't matter.
func (s stagedFiles) Open(_ context.Context, _ string, a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	r, err := s.store.OpenArtifact(a)
	if errors.Is(err, artifact.ErrNotFound) {
		return nil, fmt.Errorf("artifact %s: %w", artifact.Label(a), fs.ErrNotExist)
	}
	return r, err
}

// processPolicy says which commands of PROCESS environments may run.
func processPolicy(c Config) harness.ProcessPolicy {
	switch c.AllowProcessEnvironments {
	case "all":
		return harness.ProcessPolicy{}
	case "none":
		return harness.ProcessPolicy{Restricted: true}
	case "auto", "":
		// Who tells a TaskManager of a group what to run shows a certificate, or is
		// on this machine.
		addr := c.JobAddr
		if c.Role == TaskManager {
			addr = c.DataAddr
		}
		host, _, _ := net.SplitHostPort(addr)
		return harness.ProcessPolicy{Restricted: !loopback(host) && (c.Role != TaskManager || c.TLSCert == "")}
	}
	p := harness.ProcessPolicy{Restricted: true}
	for name := range strings.SplitSeq(c.AllowProcessEnvironments, ",") {
		if name = strings.TrimSpace(name); name != "" {
			p.Allowed = append(p.Allowed, name)
		}
	}
	return p
}

// Ready is where the node serves.
func (n *Node) Ready() Ready {
	r := n.ports.ready()
	r.PID = os.Getpid()
	return r
}

// Close gives back what New took. Run does so itself.
func (n *Node) Close() {
	n.ports.close()
	if n.files != nil {
		n.files.Close()
	}
	if n.peers != nil {
		n.peers.Close()
	}
	if n.messages != nil {
		n.messages.Close()
	}
	if n.raft != nil {
		if err := n.raft.Close(); err != nil {
			n.log.Error("the log of decisions was not closed cleanly", "err", err)
		}
	}
	if n.lock != nil {
		n.lock.Close() // gives up the lock, too
	}
}

// Run serves until ctx ends, calling serving (which may be nil) once requests
// are answered. When it returns, nothing that it started is left.
func (n *Node) Run(ctx context.Context, serving func()) error {
	defer n.Close()
	err := runStack(ctx, n.log, n.cfg.StopTimeout, n.parts(), func() error {
		if n.cfg.ReadyFile != "" {
			if err := WriteReady(n.cfg.ReadyFile, n.Ready()); err != nil {
				return fmt.Errorf("write ready file: %w", err)
			}
		}
		if serving != nil {
			serving()
		}
		return nil
	})
	if n.cfg.ReadyFile != "" {
		os.Remove(n.cfg.ReadyFile) // nobody is to be sent to a port of ours any more
	}
	return errors.Join(err, n.clearTaskFiles())
}

// parts are all that runs, in the order of starting: who is used before its
// users.
func (n *Node) parts() []part {
	parts := []part{{name: "messages", run: n.mail.run}}
	if n.side != nil {
		parts = append(parts, part{name: "task manager", run: n.side.Run})
	}
	if n.is(JobManager) {
		parts = append(parts, n.jobParts()...)
	} else {
		parts = append(parts, n.taskParts()...)
	}
	return append(parts, part{name: "web", run: n.serveWeb})
}
