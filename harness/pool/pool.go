// Package pool is Beam's external worker pool: it starts worker processes on
// the request of a runner.
//
// A pipeline with an EXTERNAL environment names a pool's address. For each
// worker that the runner wants, the pool starts one command in a process group
// of its own, tells it the runner's endpoints as an SDK container would be told
// (package contract), and ends it when the runner says so, or when the pool
// itself ends, however that comes about (package child).
//
// The pool trusts who can reach it: a request runs the command that the pool's
// operator chose, with endpoints that the request names, and nothing else.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"trestle/harness/child"
	"trestle/harness/contract"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Options of a Server. The zero value is good but for Command.
type Options struct {
	// Command is the program that is a worker, or boots one, and its first
	// arguments: python -m apache_beam.runners.worker.sdk_worker_main
	Command []string
	// GoWorker says that the command is a Go pipeline's own binary, which is
	// told its task by other arguments than a boot program.
	GoWorker bool
	// Env are variables for the workers, as NAME=VALUE, besides the pool's own.
	Env []string
	// Dir is where workers have their directories; the system's temporary
	// directory if empty.
	Dir string
	// MaxWorkers bounds the workers at one time; 256 if 0.
	MaxWorkers int
	// ProvisionTimeout bounds the question to the runner's provision service;
	// 10 s if 0. StopGrace is what a worker has to end after SIGTERM; 3 s if 0.
	ProvisionTimeout, StopGrace time.Duration
	// Output is given each line that a worker writes. It must not block; the
	// bytes are valid during the call.
	Output func(worker string, line []byte)
	// Log tells of workers that were started and stopped.
	Log *slog.Logger
}

// A Server is one pool.
type Server struct {
	fnpb.UnimplementedBeamFnExternalWorkerPoolServer

	options  Options
	children child.Keeper
	watching sync.WaitGroup // one for each worker

	mu      sync.Mutex
	closed  bool
	workers map[string]*worker // by id; nil while one is being started
}

type worker struct {
	process *child.Process
	dir     string
}

// New returns a pool without workers. It fails if the command can't be run.
func New(o Options) (*Server, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("worker pool: no command is given")
	}
	if o.MaxWorkers == 0 {
		o.MaxWorkers = 256
	}
	if o.ProvisionTimeout == 0 {
		o.ProvisionTimeout = 10 * time.Second
	}
	if o.StopGrace == 0 {
		o.StopGrace = 3 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// Workers run in directories of their own, so the command's must be fixed now.
	if path := o.Command[0]; strings.ContainsRune(path, filepath.Separator) {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("worker pool: %w", err)
		}
		o.Command = append([]string{absolute}, o.Command[1:]...)
	}
	if err := child.Runnable(o.Command[0]); err != nil {
		return nil, fmt.Errorf("worker pool: %w", err)
	}
	return &Server{options: o, workers: map[string]*worker{}}, nil
}

// Serve answers requests until ctx ends. When it returns, the listener is
// closed and no worker is left.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	fnpb.RegisterBeamFnExternalWorkerPoolServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	err := server.Serve(listener)
	stop()
	s.close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// StartWorker starts one worker. It does not wait for the worker to connect.
func (s *Server) StartWorker(ctx context.Context, r *fnpb.StartWorkerRequest) (*fnpb.StartWorkerResponse, error) {
	id := r.GetWorkerId()
	if err := s.start(ctx, id, r); err != nil {
		s.options.Log.Warn("start worker", "worker", id, "error", err)
		return &fnpb.StartWorkerResponse{Error: fmt.Sprintf("start worker %q: %v", id, err)}, nil
	}
	s.options.Log.Info("started worker", "worker", id)
	return &fnpb.StartWorkerResponse{}, nil
}

func (s *Server) start(ctx context.Context, id string, r *fnpb.StartWorkerRequest) error {
	if err := s.reserve(id); err != nil {
		return err
	}
	w, err := s.run(ctx, id, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.workers, id)
		return err
	}
	s.workers[id] = w
	s.watching.Go(func() { s.watch(id, w) })
	return nil
}

// reserve takes an id, so that no second worker is started under it.
func (s *Server) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.workers[id]
	switch {
	case s.closed:
		return errors.New("the pool is shutting down")
	case id == "":
		return errors.New("no worker id is given")
	case known:
		return errors.New("a worker of this id runs already")
	case len(s.workers) >= s.options.MaxWorkers:
		return fmt.Errorf("the pool runs %d workers already", len(s.workers))
	}
	s.workers[id] = nil
	return nil
}

// run starts the process.
func (s *Server) run(ctx context.Context, id string, r *fnpb.StartWorkerRequest) (*worker, error) {
	dir, err := os.MkdirTemp(s.options.Dir, "trestle-worker-*")
	if err != nil {
		return nil, err
	}
	told := contract.Worker{
		ID:        id,
		Control:   r.GetControlEndpoint().GetUrl(),
		Logging:   r.GetLoggingEndpoint().GetUrl(),
		Artifact:  r.GetArtifactEndpoint().GetUrl(),
		Provision: r.GetProvisionEndpoint().GetUrl(),
		Dir:       dir,
	}
	process, err := s.exec(ctx, told)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &worker{process: process, dir: dir}, nil
}

func (s *Server) exec(ctx context.Context, told contract.Worker) (*child.Process, error) {
	if err := s.provision(ctx, &told); err != nil {
		return nil, err
	}
	if told.Control == "" || told.Logging == "" {
		return nil, errors.New("the request names no control and logging endpoints")
	}
	env, err := told.Prepare()
	if err != nil {
		return nil, err
	}
	c := child.Command{
		Path: s.options.Command[0],
		Args: append(s.options.Command[1:len(s.options.Command):len(s.options.Command)], told.BootArgs()...),
		Env:  append(append(contract.Inherited(os.Environ()), s.options.Env...), env...),
		Dir:  told.Dir,
		Mark: filepath.Base(told.Dir), // the id comes from outside
	}
	if s.options.GoWorker {
		c.Args = append(s.options.Command[1:len(s.options.Command):len(s.options.Command)], told.GoWorkerArgs()...)
	}
	if s.options.Output != nil {
		c.Output = func(line []byte) { s.options.Output(told.ID, line) }
	}
	return s.children.Start(c)
}

// provision asks the runner for what a boot program would ask it. A runner
// without a provision service has told everything in its request.
func (s *Server) provision(ctx context.Context, told *contract.Worker) error {
	if told.Provision == "" {
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///"+told.Provision, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("provision endpoint %q: %w", told.Provision, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "worker_id", told.ID), s.options.ProvisionTimeout)
	defer cancel()
	response, err := fnpb.NewProvisionServiceClient(conn).GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("provision endpoint %s: %w", told.Provision, err)
	}
	info := response.GetInfo()
	told.Options = info.GetPipelineOptions()
	told.Capabilities = info.GetRunnerCapabilities()
	told.Status = info.GetStatusEndpoint().GetUrl()
	told.JobID, told.JobName = info.GetMetadata()["job_id"], info.GetMetadata()["job_name"]
	override(&told.Control, info.GetControlEndpoint().GetUrl())
	override(&told.Logging, info.GetLoggingEndpoint().GetUrl())
	override(&told.Artifact, info.GetArtifactEndpoint().GetUrl())
	return nil
}

func override(address *string, by string) {
	if by != "" {
		*address = by
	}
}

// watch forgets a worker when it has ended.
func (s *Server) watch(id string, w *worker) {
	<-w.process.Exited()
	s.options.Log.Info("worker ended", "worker", id, "status", w.process.Status())
	os.RemoveAll(w.dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.workers, id)
}

// StopWorker ends a worker and returns when nothing of it is left. That an
// unknown one is stopped is no error: it may have ended by itself.
func (s *Server) StopWorker(_ context.Context, r *fnpb.StopWorkerRequest) (*fnpb.StopWorkerResponse, error) {
	s.mu.Lock()
	w := s.workers[r.GetWorkerId()]
	s.mu.Unlock()
	if w != nil {
		s.stop(w)
	}
	return &fnpb.StopWorkerResponse{}, nil
}

func (s *Server) stop(w *worker) {
	ctx, cancel := context.WithTimeout(context.Background(), s.options.StopGrace)
	defer cancel()
	w.process.Stop(ctx)
}

// close ends all workers. No request is being answered any more.
func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	var stopping sync.WaitGroup
	for _, w := range s.workers {
		if w != nil {
			stopping.Go(func() { s.stop(w) })
		}
	}
	s.mu.Unlock()
	stopping.Wait()
	s.watching.Wait()
	s.children.Close()
}
