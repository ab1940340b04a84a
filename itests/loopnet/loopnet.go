// Package loopnet makes hosts out of loopback addresses, and cuts the wires between
// them, where package netns can't make hosts out of namespaces.
//
// A host is a loopback address of its own and the processes that were started on
// it. Nobody sees to it that a process keeps to its host's address: what it listens
// on for others it must be told (Listen), and others are to be told the host's own
// address with the same port, where a proxy stands for it. The proxy asks the
// system whose process it is that dials, so that there is one wire, with two
// directions, for each pair of hosts.
//
// A cut holds back all bytes of one direction, the ends of connections among them,
// until it is healed; connections are taken meanwhile, and nothing comes of them. So
// it is gentler than a wire that is pulled: no packet is lost, and who dials isn't
// kept waiting, but whoever waits for an answer is.
//
// Processes of a host are those that inherit its mark in their environment. Close
// removes the proxies; processes are not this package's, but what a killed program
// has left running is ended by the next one that makes a network.
package loopnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Here is the name of the machine itself, as an end of a wire.
const Here = "here"

// mark is the environment variable that names a process's network and host. Trestle
// doesn't hand down to workers what begins with its own name.
const mark = "LOOPNET_HOST"

// A Network is hosts and the proxies between them.
type Network struct {
	id     string // begins with the id of the program that made it
	prefix string // of addresses, with a dot at the end
	lock   net.Listener
	hosts  []*Host
	life   context.Context
	end    context.CancelFunc
	owned  sync.WaitGroup // proxies and what they carry

	mu      sync.Mutex
	cut     map[[2]string]bool // from, to
	changed chan struct{}      // closed and renewed when cut changes
}

// A Host is a loopback address.
type Host struct {
	Name string
	Addr string // without a port
	net  *Network
}

var made atomic.Int64 // networks of this program

// New makes hosts of these names, which others reach at these ports. What listens
// there for them does so at Listen's address.
func New(ports []string, names ...string) (*Network, error) {
	sweep()
	n := &Network{id: fmt.Sprintf("%d-%d", os.Getpid(), made.Add(1)), cut: map[[2]string]bool{}, changed: make(chan struct{})}
	n.life, n.end = context.WithCancel(context.Background())
	err := n.takePrefix()
	for i, name := range names {
		h := &Host{Name: name, Addr: n.prefix + strconv.Itoa(i+2), net: n}
		n.hosts = append(n.hosts, h)
		for _, port := range ports {
			if err == nil {
				err = n.proxy(h, port)
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// takePrefix takes the first network of 127.77.0.0/16 that no other program has.
func (n *Network) takePrefix() (err error) {
	for i := range 250 {
		prefix := fmt.Sprintf("127.77.%d.", i)
		if n.lock, err = net.Listen("tcp4", prefix+"1:8096"); err == nil {
			n.prefix = prefix
			return nil
		}
	}
	return fmt.Errorf("all networks are taken: %w", err)
}

// Host is the host of that name, which must be one of the network's.
func (n *Network) Host(name string) *Host {
	for _, h := range n.hosts {
		if h.Name == name {
			return h
		}
	}
	panic("loopnet: no host is named " + name)
}

// Listen is where a process on the host is to listen for what others dial at the
// host's own address with that port.
func (h *Host) Listen(port string) string { return net.JoinHostPort(h.Addr, "1"+port) }

// Loopback is the address that takes the place of the host's loopback.
func (h *Host) Loopback() string { return h.Addr }

// Address is the host's own.
func (h *Host) Address() string { return h.Addr }

// Command is a program to be started on the host. Its environment is to be added
// to, not replaced.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), mark+"="+h.mark())
	return cmd
}

func (h *Host) mark() string { return h.net.id + "/" + h.Name }

// Processes are the ids of all processes of the host.
func (h *Host) Processes() ([]int, error) {
	var pids []int
	err := marked(func(pid int, of string) {
		if of == h.mark() {
			pids = append(pids, pid)
		}
	})
	return pids, err
}

// Dial connects from the machine itself: wires are not its business.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// marked tells all processes that have a mark, and which. Those that end meanwhile
// may be left out.
func marked(tell func(pid int, of string)) error {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it is somebody else's, or has ended
		}
		for v := range strings.SplitSeq(string(text), "\x00") {
			if of, ok := strings.CutPrefix(v, mark+"="); ok {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				if err == nil {
					tell(pid, of)
				}
				break
			}
		}
	}
	return err
}

// sweep ends what programs have left running that are no more.
func sweep() {
	_ = marked(func(pid int, of string) {
		program, _, _ := strings.Cut(of, "-")
		id, err := strconv.Atoi(program)
		if err == nil && errors.Is(syscall.Kill(id, 0), syscall.ESRCH) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// Cut lets nothing pass any more from one host to another. The other direction
// stays as it is.
func (n *Network) Cut(from, to string) error {
	n.change(func() { n.cut[[2]string{from, to}] = true })
	return nil
}

// Part cuts all wires between two groups of hosts, in both directions.
func (n *Network) Part(some, others []string) error {
	n.change(func() {
		for _, a := range some {
			for _, b := range others {
				if a != b {
					n.cut[[2]string{a, b}], n.cut[[2]string{b, a}] = true, true
				}
			}
		}
	})
	return nil
}

// HealAll undoes all cuts.
func (n *Network) HealAll() error {
	n.change(func() { clear(n.cut) })
	return nil
}

func (n *Network) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	close(n.changed)
	n.changed = make(chan struct{})
}

// pass waits until bytes may pass from one host to the other, or for ctx's end.
func (n *Network) pass(ctx context.Context, way [2]string) error {
	for {
		n.mu.Lock()
		cut, changed := n.cut[way], n.changed
		n.mu.Unlock()
		if !cut {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close ends the proxies, and waits for them.
func (n *Network) Close() error {
	n.end()
	n.owned.Wait()
	if n.lock == nil {
		return nil
	}
	return n.lock.Close()
}
