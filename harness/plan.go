package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"trestle/harness/child"
	"trestle/harness/contract"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Beam's names.
const (
	urnExternal  = "beam:env:external:v1"
	urnProcess   = "beam:env:process:v1"
	urnDocker    = "beam:env:docker:v1"
	urnAnyOf     = "beam:env:anyof:v1"
	urnDefault   = "beam:env:default:v1"
	urnOwn       = "trestle:env:harness:v1" // of Trestle's own transforms
	urnMultiCore = "beam:protocol:multi_core_bundle_processing:v1"
	urnGoWorker  = "beam:artifact:role:go_worker_binary:v1"
	urnStagingTo = "beam:artifact:role:staging_to:v1"
)

// deepestAnyOf bounds how far alternatives nest.
const deepestAnyOf = 4

// workable are the environments that work on any host.
const workable = "use environment type LOOPBACK (workers in the client), PROCESS (environment config {\"command\": \"…\"}) or EXTERNAL (environment config HOST:PORT of a running `trestle worker-pool`)"

// A plan is how the workers of one environment are to be started.
type plan struct {
	env    *pipepb.Environment // of an any-of, the alternative chosen
	launch launcher
}

// A launcher starts workers of one environment.
type launcher interface {
	// launch starts a worker, which then connects by itself. ctx bounds the start
	// alone. The name is for people; the worker's id is a secret.
	launch(ctx context.Context, f *fleet, name string, w contract.Worker) (instance, error)
	// String says for people what is started: worker process "/opt/boot".
	String() string
}

// An instance is a worker that was started.
type instance interface {
	// exited is closed when the worker's process is gone; never for workers whose
	// process isn't ours.
	exited() <-chan struct{}
	// stop ends the worker, whose control stream has ended already, and returns
	// when nothing of it is left. In haste it doesn't wait for the worker to end
	// by itself first.
	stop(haste bool)
	// obituary is what is known of the worker's end, "" if nothing is. Only after
	// stop or exited.
	obituary() string
}

func (p plan) describe() string { return p.launch.String() }

// multiCore reports whether one worker uses all cores.
func (p plan) multiCore() bool {
	return slices.Contains(p.env.GetCapabilities(), urnMultiCore)
}

// plan decides how the environment's workers are started, or says why they
// can't be.
func (p *Pool) plan(env *pipepb.Environment) (plan, error) { return p.planDeep(env, deepestAnyOf) }

func (p *Pool) planDeep(env *pipepb.Environment, depth int) (plan, error) {
	var launch launcher
	var err error
	switch env.GetUrn() {
	case urnExternal:
		launch, err = p.planExternal(env)
	case urnProcess:
		launch, err = p.planProcess(env)
	case urnDocker:
		launch, err = p.planDocker(env)
	case urnAnyOf:
		return p.planAnyOf(env, depth)
	case urnOwn:
		launch, err = p.planOwn()
	case "":
		err = errors.New("no environment type is given; " + workable)
	case urnDefault:
		err = errors.New("the default environment says nothing about how to start workers; " + workable)
	default:
		err = fmt.Errorf("environments of type %q are not supported; %s", env.GetUrn(), workable)
	}
	return plan{env: env, launch: launch}, err
}

// planAnyOf takes the first alternative that works here.
func (p *Pool) planAnyOf(env *pipepb.Environment, depth int) (plan, error) {
	var payload pipepb.AnyOfEnvironmentPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return plan{}, fmt.Errorf("the any-of environment's payload is broken: %w", err)
	}
	if depth == 0 {
		return plan{}, errors.New("any-of environments are nested too deep")
	}
	if len(payload.GetEnvironments()) == 0 {
		return plan{}, errors.New("the any-of environment has no alternatives; " + workable)
	}
	var all error
	for _, alternative := range payload.GetEnvironments() {
		chosen, err := p.planDeep(alternative, depth-1)
		if err == nil {
			return chosen, nil
		}
		all = errors.Join(all, err)
	}
	return plan{}, fmt.Errorf("none of the environment's alternatives works here: %w", all)
}

func (p *Pool) planExternal(env *pipepb.Environment) (launcher, error) {
	var payload pipepb.ExternalPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, fmt.Errorf("the external environment's payload is broken: %w", err)
	}
	address := payload.GetEndpoint().GetUrl()
	if address == "" {
		return nil, errors.New("the external environment names no worker pool; give HOST:PORT as environment config")
	}
	if payload.GetEndpoint().GetAuthentication().GetUrn() != "" {
		return nil, fmt.Errorf("the worker pool %s asks for authentication %q, which is not supported; leave it out", address, payload.GetEndpoint().GetAuthentication().GetUrn())
	}
	return &external{
		address: address, params: payload.GetParams(),
		dialTimeout: p.options.DialTimeout, stopTimeout: p.options.StopGrace + farewell,
	}, nil
}

func (p *Pool) planProcess(env *pipepb.Environment) (launcher, error) {
	var payload pipepb.ProcessPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, fmt.Errorf("the process environment's payload is broken: %w", err)
	}
	command := payload.GetCommand()
	policy := p.options.Processes
	switch {
	case command == "":
		return nil, errors.New(`the process environment names no command; give {"command": "…"} as environment config`)
	case payload.GetOs() != "" && payload.GetOs() != runtime.GOOS:
		return nil, fmt.Errorf("process environment %q is for %s, and this is %s", command, payload.GetOs(), runtime.GOOS)
	case payload.GetArch() != "" && payload.GetArch() != runtime.GOARCH:
		return nil, fmt.Errorf("process environment %q is for %s, and this is %s", command, payload.GetArch(), runtime.GOARCH)
	case policy.Restricted && !slices.Contains(policy.Allowed, command):
		return nil, fmt.Errorf("process environment %q: this server runs only the commands that its operator has allowed (%s)", command, strings.Join(policy.Allowed, ", "))
	}
	for name := range payload.GetEnv() {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, fmt.Errorf("process environment %q: %q is not a variable's name", command, name)
		}
	}
	path := command
	if strings.ContainsRune(command, filepath.Separator) {
		// The worker runs in a directory of its own.
		absolute, err := filepath.Abs(command)
		if err != nil {
			return nil, fmt.Errorf("process environment %q: %w", command, err)
		}
		path = absolute
	}
	if err := child.Runnable(path); err != nil {
		return nil, fmt.Errorf("process environment: %w", err)
	}
	return &process{name: fmt.Sprintf("worker process %q", command), path: path, env: payload.GetEnv()}, nil
}

// planOwn starts this program as the worker of Trestle's own transforms. It
// runs no code of a client's, so no policy is asked.
func (p *Pool) planOwn() (launcher, error) {
	path := p.options.Self
	if path == "" {
		var err error
		if path, err = child.Self(); err != nil {
			return nil, fmt.Errorf("the worker of Trestle's own transforms: %w", err)
		}
	}
	return &process{name: "the worker of Trestle's own transforms", path: path, own: true}, nil
}

func (p *Pool) planDocker(env *pipepb.Environment) (launcher, error) {
	var payload pipepb.DockerPayload
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, fmt.Errorf("the docker environment's payload is broken: %w", err)
	}
	image := payload.GetContainerImage()
	if image == "" || strings.HasPrefix(image, "-") {
		return nil, fmt.Errorf("docker environment: %q is not an image", image)
	}
	program, unreachable := p.engine.find()
	if unreachable == nil {
		return &container{program: program, image: image}, nil
	}
	for _, a := range env.GetDependencies() {
		if a.GetRoleUrn() != urnGoWorker {
			continue
		}
		if p.options.Processes.Restricted {
			return nil, fmt.Errorf("docker environment %q: %w, and this server doesn't run staged binaries without one", image, unreachable)
		}
		return &process{name: "the pipeline's Go worker binary", binary: a}, nil
	}
	hint := workable
	if slices.ContainsFunc(env.GetCapabilities(), func(c string) bool { return strings.HasPrefix(c, "beam:version:sdk_base:go") }) {
		hint = "give --worker_binary=FILE (the pipeline compiled for this host), or " + hint
	}
	return nil, fmt.Errorf("docker environment %q: %w; start one, or %s", image, unreachable, hint)
}

// A shape says how many workers there are and how each is used.
type shape struct {
	workers, lanes int
	restarts       int
	loopback       bool // the worker lives in the client and can't be started twice
}

func shapeOf(p plan, r Request, o Options) shape {
	s := shape{workers: r.Workers, lanes: r.Lanes, restarts: o.MaxRestarts}
	if s.lanes <= 0 {
		s.lanes = o.Lanes
	}
	if s.workers <= 0 {
		s.workers = o.Cores
		if p.multiCore() {
			s.workers = 1
		}
	}
	if e, ok := p.launch.(*external); ok && isLoopback(e.address, r.Options) {
		s.loopback, s.restarts = true, 0
		if p.multiCore() || !hasExperiment(r.Options, "use_loopback_process_worker") {
			s.workers = 1
		}
	}
	return s
}

// isLoopback tells workers in the client's process from a worker pool, which
// share an environment type: the options say so, or else the address.
func isLoopback(address string, options optionsStruct) bool {
	switch strings.ToUpper(environmentType(options)) {
	case "LOOPBACK":
		return true
	case "EXTERNAL":
		return false
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
