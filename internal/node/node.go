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
	"trestle/jobservice"
	"trestle/jobservice/artifact"
	"trestle/raftmeta"
	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/runner/schedule"
	"trestle/web"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// taskManagerName is the embedded TaskManager's.
const taskManagerName = "local"

// A Node is an embedded Trestle. It has its addresses and its data directory
// from New on, and serves while Run runs.
type Node struct {
	cfg     Config
	log     *slog.Logger
	version string

	jobListener, webListener net.Listener

	journal    *journal
	board      *runner.Board
	blobs      blobstore.Store // pipelines, and what runs of them
	artifacts  *artifact.Store
	messages   *joblog.Store
	mail       *mailbox
	side       *taskSide
	dispatcher *runner.Dispatcher
	lead       *lead
	jobs       *jobs
	jobService *jobservice.Service
	web        *web.Server
	caretaker  *caretaker
	closing    chan struct{} // closed when requests that wait must end
	closeOnce  sync.Once
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
	n = &Node{cfg: cfg, log: log, version: version, closing: make(chan struct{})}
	defer func() {
		if err != nil {
			n.Close()
			n = nil
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return n, fmt.Errorf("data directory: %w", err)
	}
	// The journal first: it is what keeps a second process out of the directory.
	records, err := raftmeta.Open(n.path("journal"))
	if err != nil {
		return n, err
	}
	n.journal = &journal{Log: records, log: log}
	n.bound()
	if err := n.listen(); err != nil {
		return n, err
	}
	// Not before: what can't start leaves alone the file of who has the ports.
	if cfg.ReadyFile != "" {
		if err := os.Remove(cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return n, fmt.Errorf("remove the last run's ready file: %w", err)
		}
	}
	if err := n.openStores(); err != nil {
		return n, err
	}
	return n, n.join()
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.Data, name) }

// bound keeps the process within --memory: dataShare of it for data that may be
// spilled, the rest for what can't, and the collector works harder towards the
// end.
func (n *Node) bound() {
	debug.SetMemoryLimit(int64(n.cfg.Memory) * 9 / 10)
}

func dataShare(memory Size) int64 { return int64(memory) / 2 }

func (n *Node) listen() (err error) {
	if n.jobListener, err = listenTCP("job-addr", n.cfg.JobAddr); err != nil {
		return err
	}
	n.webListener, err = listenTCP("web-addr", n.cfg.WebAddr)
	return err
}

func listenTCP(setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--%s=%s: %w", setting, addr, err)
	}
	return l, nil
}

func (n *Node) openStores() (err error) {
	if n.blobs, err = blobstore.Open(n.path("blobs")); err != nil {
		return err
	}
	n.artifacts, err = artifact.New(n.path("artifacts"), artifact.Options{MaxFileBytes: int64(n.cfg.MaxArtifactSize)})
	if err != nil {
		return err
	}
	n.messages, err = joblog.New(n.path("messages"), joblog.Options{MaxBytes: int64(n.cfg.MessageLogSize)})
	n.mail = newMailbox(n.messages, n.path("told"), n.log)
	return err
}

// join makes the rooms and gives each what it needs of the others.
func (n *Node) join() error {
	if err := n.joinTaskSide(); err != nil {
		return err
	}
	n.board = runner.NewBoard(n.mail)
	n.journal.board = n.board
	n.dispatcher = runner.New(runner.Config{
		Journal:      n.journal,
		Board:        n.board,
		TaskManagers: []runner.TaskManager{n.side.TaskManager},
		Policy: schedule.Policy{
			TargetBytes: int64(n.cfg.TargetTaskSize),
			Restart:     serverRestart(n.cfg),
			HistoryJobs: n.cfg.HistoryJobs,
		},
		Log: n.log,
	})
	n.lead = &lead{board: n.board, group: alone{}}
	n.lead.take(n.dispatcher)
	n.caretaker = newCaretaker(n)
	n.jobs = &jobs{cfg: n.cfg, lead: n.lead, board: n.board, blobs: n.blobs, side: n.side, log: n.log, accepted: n.caretaker.accepted}
	n.jobService = jobservice.New(n.jobs, n.messages, n.artifacts, jobservice.Options{PreparedTTL: n.cfg.PreparedTTL, Log: n.log})
	n.web = web.New(webJobs{n.jobs}, n.messages, web.Options{
		Version: n.version,
		Metrics: n.metricsHandler(),

		JobEndpoint: n.jobListener.Addr().String(),

		AnyHost:  n.cfg.InsecureListen,
		Profiles: n.cfg.Profiles,
		Closing:  n.closing,
		Log:      n.log,
	})
	return nil
}

func (n *Node) joinTaskSide() (err error) {
	n.side, err = newTaskSide(taskSideConfig{
		Name:      taskManagerName,
		Dir:       n.path("task"),
		Slots:     n.cfg.Slots,
		Memory:    dataShare(n.cfg.Memory),
		Workers:   n.cfg.WorkersPerEnvironment,
		Processes: processPolicy(n.cfg),
		Artifacts: stagedFiles{n.artifacts},
		Messages:  n.workerMessages,
		Open:      n.blobs.Get,
		Output: func(job, worker string, line []byte) {
			n.mail.output(job, worker, n.side.stored.hide(job, string(line)))
		},
		Start: n.cfg.WorkerStartTimeout,
		Log:   n.log,
	})
	return err
}

// workerMessages keeps what workers log, with the author's names for
// transforms.
func (n *Node) workerMessages(job string, entries ...joblog.Entry) error {
	for i := range entries {
		if entries[i].Transform != "" {
			entries[i].Transform = n.side.stored.transformName(job, entries[i].Transform)
		}
		entries[i].Text = n.side.stored.hide(job, entries[i].Text)
	}
	n.mail.logged(job, entries)
	if err := n.messages.Append(job, entries...); err != nil {
		n.log.Error("messages are lost", "job", job, "messages", len(entries), "err", err)
		return err
	}
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
		host, _, _ := net.SplitHostPort(c.JobAddr)
		return harness.ProcessPolicy{Restricted: !loopback(host)}
	}
	return harness.ProcessPolicy{Restricted: true, Allowed: strings.Split(c.AllowProcessEnvironments, ",")}
}

// Ready is where the node serves.
func (n *Node) Ready() Ready {
	return Ready{Job: n.jobListener.Addr().String(), Web: n.webListener.Addr().String(), PID: os.Getpid()}
}

// Close gives back what New took. Run does so itself.
func (n *Node) Close() {
	for _, l := range []net.Listener{n.jobListener, n.webListener} {
		if l != nil {
			l.Close()
		}
	}
	if n.messages != nil {
		n.messages.Close()
	}
	if n.journal != nil {
		if err := n.journal.Close(); err != nil {
			n.log.Error("the journal was not closed cleanly", "err", err)
		}
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
	return errors.Join(err, os.RemoveAll(n.path("task")))
}

// parts are all that runs, in the order of starting: who is used before its
// users.
func (n *Node) parts() []part {
	return []part{
		{name: "messages", run: n.mail.run},
		{name: "task manager", run: n.side.Run},
		{name: "dispatcher", run: n.dispatcher.Run, ready: n.dispatcher.Ready()},
		{name: "caretaker", run: n.caretaker.run, ready: n.caretaker.ready},
		{name: "job service", run: n.serveJobs},
		{name: "prepared jobs", run: n.jobService.Run},
		{name: "web", run: n.serveWeb},
	}
}
