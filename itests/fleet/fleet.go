package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"trestle/itests/loopnet"
	"trestle/itests/netns"
)

// A Config says what a fleet is made of.
type Config struct {
	Trestle string // the program
	Dir     string // where the fleet may write; must exist

	JobManagers  int
	TaskManagers int
	Serves       int    // embedded Trestles, each by itself
	Spare        int    // more hosts, jm and tm names going on, whose processes aren't started
	Slots        int    // of each TaskManager; 2 if 0
	Memory       string // of each process, as --memory has it; 256MiB if ""
	TaskSize     string // input that a task should get, as --target-task-size has it
	Blob         bool   // shuffle data is written to an object store that outlives TaskManagers
	Loopback     bool   // hosts are made by package loopnet, not netns

	// Args are more flags for all processes, and those of one kind.
	Args, JobManagerArgs, TaskManagerArgs []string
}

// A Host is where a node's processes run: packages netns and loopnet make them.
type Host interface {
	Address() string           // that others know it by, without a port
	Loopback() string          // that its own processes alone are to know it by
	Listen(port string) string // where to listen for what others dial at that port of Address
	Command(name string, args ...string) *exec.Cmd
	Processes() ([]int, error)
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// A Network is hosts and the wires between them.
type Network interface {
	Cut(from, to string) error
	Part(some, others []string) error
	HealAll() error
	Close() error
}

// A Fleet is a running Trestle of many processes.
type Fleet struct {
	cfg   Config
	Net   Network
	Nodes []*Node // JobManagers first, spare ones included
}

// startTime bounds the start of a process.
const startTime = 30 * time.Second

// New makes the hosts and starts nothing.
func New(cfg Config) (*Fleet, error) {
	if cfg.Slots == 0 {
		cfg.Slots = 2
	}
	if cfg.Memory == "" {
		cfg.Memory = "256MiB"
	}
	if cfg.TaskSize == "" {
		cfg.TaskSize = "64MiB"
	}
	f := &Fleet{cfg: cfg}
	for _, k := range []struct {
		kind Kind
		n    int
	}{{JobManager, cfg.JobManagers}, {TaskManager, cfg.TaskManagers}, {Serve, cfg.Serves}} {
		hosts := k.n
		if k.kind != Serve {
			hosts += cfg.Spare
		}
		for i := range hosts {
			name := string(k.kind) + strconv.Itoa(i+1)
			f.Nodes = append(f.Nodes, &Node{Name: name, Kind: k.kind, fleet: f, spare: i >= k.n, dir: filepath.Join(cfg.Dir, name)})
		}
	}
	names := make([]string, len(f.Nodes))
	for i, n := range f.Nodes {
		names[i] = n.Name
		for _, sub := range []string{"data", "tmp"} {
			if err := os.MkdirAll(filepath.Join(n.dir, sub), 0o700); err != nil {
				return nil, err
			}
		}
	}
	if err := f.connect(names); err != nil {
		return nil, err
	}
	args := []string{"certs", "--dir=" + f.certs(), "--operator=" + admin}
	flags := map[Kind]string{JobManager: "--jobmanager=", TaskManager: "--taskmanager="}
	for _, n := range f.Nodes {
		args = append(args, flags[n.Kind]+n.Name+"="+n.host.Address())
	}
	if out, err := exec.Command(cfg.Trestle, args...).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("trestle certs: %w: %s", err, out), f.Net.Close())
	}
	return f, nil
}

// connect makes the nodes' hosts.
func (f *Fleet) connect(names []string) error {
	if f.cfg.Loopback {
		network, err := loopnet.New([]string{clusterPort, dataPort}, names...)
		if err != nil {
			return err
		}
		for _, n := range f.Nodes {
			n.host = network.Host(n.Name)
		}
		f.Net = network
		return nil
	}
	network, err := netns.New(names...)
	if err != nil {
		return err
	}
	for _, n := range f.Nodes {
		n.host = network.Host(n.Name)
	}
	f.Net = network
	return nil
}

// admin is whoever looks after the fleet from outside.
const admin = "admin"

// certs is where the processes' certificates are.
func (f *Fleet) certs() string { return filepath.Join(f.cfg.Dir, "certs") }

// Start starts all nodes that are no spare ones and waits until they are ready.
func (f *Fleet) Start(ctx context.Context) error {
	var errs []error
	for _, n := range f.Nodes {
		if !n.spare {
			errs = append(errs, n.Launch())
		}
	}
	for _, n := range f.Nodes {
		if n.Running() {
			errs = append(errs, n.Ready(ctx))
		}
	}
	return errors.Join(errs...)
}

// Close ends all processes of the hosts and removes the hosts.
func (f *Fleet) Close() error {
	var errs []error
	for _, n := range f.Nodes {
		errs = append(errs, n.PowerOff())
	}
	return errors.Join(append(errs, f.Net.Close())...)
}

// Of are the nodes of a kind, spare ones only if they run.
func (f *Fleet) Of(kind Kind) []*Node {
	var out []*Node
	for _, n := range f.Nodes {
		if n.Kind == kind && (!n.spare || n.Running()) {
			out = append(out, n)
		}
	}
	return out
}

// Node is the node of that name, which must be one.
func (f *Fleet) Node(name string) *Node {
	i := slices.IndexFunc(f.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		panic("fleet: no node is named " + name)
	}
	return f.Nodes[i]
}

// Names are those of nodes.
func Names(nodes []*Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

// Others are all nodes but these, and the machine itself, so that
// Net.Part(nodes, f.Others(nodes)) leaves them alone.
func (f *Fleet) Others(nodes ...*Node) []string {
	out := []string{netns.Here}
	for _, n := range f.Nodes {
		if !slices.Contains(nodes, n) {
			out = append(out, n.Name)
		}
	}
	return out
}

// members is the founding group, as --members has it.
func (f *Fleet) members() string {
	var out []string
	for _, n := range f.Nodes {
		if n.Kind == JobManager && !n.spare {
			out = append(out, n.Name+"="+n.ClusterAddr())
		}
	}
	return strings.Join(out, ",")
}

// doors are the cluster addresses of all JobManagers, spare ones included: a
// TaskManager asks who leads until one answers.
func (f *Fleet) doors() string {
	var out []string
	for _, n := range f.Nodes {
		if n.Kind == JobManager {
			out = append(out, n.ClusterAddr())
		}
	}
	return strings.Join(out, ",")
}

// Store is the directory of the object store.
func (f *Fleet) Store() string { return filepath.Join(f.cfg.Dir, "store") }

// all is the settings of every process.
func (f *Fleet) all(n *Node) []string {
	args := []string{
		"--data=" + n.Data(),
		"--ready-file=" + n.readyFile(),
		"--memory=" + f.cfg.Memory,
	}
	if n.Kind != Serve {
		args = append(args, n.identity()...)
	}
	return append(args, f.cfg.Args...)
}

// identity is the certificate that the node shows others.
func (n *Node) identity() []string { return n.fleet.identity(n.Name) }

func (f *Fleet) identity(name string) []string {
	dir := f.certs()
	return []string{
		"--tls-cert=" + filepath.Join(dir, name+".crt"),
		"--tls-key=" + filepath.Join(dir, name+".key"),
		"--tls-ca=" + filepath.Join(dir, "ca.crt"),
	}
}

// Await polls until something holds.
func Await(ctx context.Context, limit time.Duration, what string, holds func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("not within %s: %s", limit, what)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
	return nil
}

// gone reports whether there is no process of that id any more, or only what
// its parent hasn't asked for yet.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}
