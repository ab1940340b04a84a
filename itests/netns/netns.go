// Package netns makes hosts out of network namespaces, and cuts the wires
// between them.
//
// A host has an address of its own on a bridge that the machine stands on, too,
// so that a test reaches every host. Processes that are started on a host see
// that network and a loopback of their own, and nothing else: what two hosts
// say to each other goes over a wire.
//
// A wire is cut by telling one host a wrong hardware address of the other:
// packets leave and nobody takes them, as when a cable is pulled, and no error
// comes back. It is done for one direction at a time, with ip(8) alone, and
// undone the same way.
//
// Close removes all of a network. What a killed program has left behind is
// removed by the next one that makes a network.
//
// Processes are not this package's: end them before Close. Only what a killed
// program has left running is ended with its hosts.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Here is the name of the machine itself, as an end of a wire.
const Here = "here"

// mark begins the names of all that a network is made of. The id of the program
// that made it follows.
const mark = "trs"

// A Network is a bridge and the hosts on it.
type Network struct {
	bridge string
	prefix string // of addresses, with a dot at the end
	hosts  []*Host
	cut    map[[2]string]bool // from, to
}

// A Host is a network namespace.
type Host struct {
	Name string
	Addr string // IPv4 address, without a port

	space  string // name of its namespace; "" for Here
	device string // its end of the wire, within the namespace
	mac    string
}

// Available tells why networks can't be made here, or nil.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	n, err := New("probe")
	if err != nil {
		return err
	}
	return n.Close()
}

// New makes hosts of these names.
func New(names ...string) (*Network, error) {
	sweep()
	n := &Network{cut: map[[2]string]bool{}}
	if err := n.build(names); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) build(names []string) error {
	if err := n.addBridge(); err != nil {
		return err
	}
	for i, name := range names {
		if name == Here || slices.ContainsFunc(n.hosts, func(h *Host) bool { return h.Name == name }) {
			return fmt.Errorf("two hosts are named %q", name)
		}
		if err := n.addHost(name, i+2); err != nil {
			return err
		}
	}
	// Everybody knows everybody, so that nothing has to be asked for: a wire that
	// is cut for questions would let known ones through.
	for _, from := range n.ends() {
		for _, to := range n.ends() {
			if from != to {
				if err := n.point(from, to, to.mac); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// addBridge takes the first network of 198.18.0.0/15, which is set aside for
// tests of networks, that the machine has no use for.
func (n *Network) addBridge() error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	taken, err := run("ip", "-oneline", "-4", "address", "show")
	if err != nil {
		return err
	}
	for i := range 250 {
		prefix := fmt.Sprintf("198.18.%d.", i)
		if strings.Contains(taken, " "+prefix) {
			continue
		}
		bridge := fmt.Sprintf("%s%db%d", mark, os.Getpid(), i)
		if _, err := run("ip", "link", "add", bridge, "address", hardware(1), "type", "bridge"); err != nil {
			return err
		}
		n.bridge, n.prefix = bridge, prefix
		if _, err := run("ip", "address", "add", prefix+"1/24", "dev", bridge); err != nil {
			return err
		}
		_, err := run("ip", "link", "set", bridge, "up")
		return err
	}
	return errors.New("all networks are taken")
}

// lock keeps other programs, and other goroutines of this one, from taking the
// same addresses.
func lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "trestle-netns.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func (n *Network) addHost(name string, number int) error {
	h := &Host{
		Name:   name,
		Addr:   n.prefix + strconv.Itoa(number),
		space:  fmt.Sprintf("%sh%d", n.bridge, number),
		device: "wire",
		mac:    hardware(number),
	}
	if _, err := run("ip", "netns", "add", h.space); err != nil {
		return err
	}
	n.hosts = append(n.hosts, h)
	port := fmt.Sprintf("%sp%d", n.bridge, number)
	for _, args := range [][]string{
		{"link", "add", port, "type", "veth", "peer", "name", h.device, "address", h.mac, "netns", h.space},
		{"link", "set", port, "master", n.bridge, "up"},
		{"-n", h.space, "link", "set", "lo", "up"},
		{"-n", h.space, "address", "add", h.Addr + "/24", "dev", h.device},
		{"-n", h.space, "link", "set", h.device, "up"},
	} {
		if _, err := run("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// hardware is the hardware address of a host by its number.
func hardware(number int) string { return fmt.Sprintf("02:74:72:73:00:%02x", number) }

// nowhere is the hardware address of nobody.
const nowhere = "02:74:72:73:ff:ff"

// Host is the host of that name, which must be one of the network's.
func (n *Network) Host(name string) *Host {
	for _, h := range n.ends() {
		if h.Name == name {
			return h
		}
	}
	panic("netns: no host is named " + name)
}

// ends are the hosts and the machine itself.
func (n *Network) ends() []*Host {
	here := &Host{Name: Here, Addr: n.prefix + "1", device: n.bridge, mac: hardware(1)}
	return append([]*Host{here}, n.hosts...)
}

// Address is the host's address, without a port.
func (h *Host) Address() string { return h.Addr }

// Loopback is the address of the host's own loopback.
func (h *Host) Loopback() string { return "127.0.0.1" }

// Listen is where a process on the host is to listen for what others dial at the
// host's address with that port: there.
func (h *Host) Listen(port string) string { return net.JoinHostPort(h.Addr, port) }

// Command is a program to be started on the host.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return h.CommandContext(context.Background(), name, args...)
}

// CommandContext is Command; the program is killed when ctx ends.
func (h *Host) CommandContext(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h.space == "" {
		return exec.CommandContext(ctx, name, args...)
	}
	// nsenter becomes the program: the process id is the program's own.
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.space, "--", name}, args...)...)
}

// Processes are the ids of all processes of the host.
func (h *Host) Processes() ([]int, error) { return processes(h.space) }

func processes(space string) ([]int, error) {
	out, err := run("ip", "netns", "pids", space)
	if err != nil {
		return nil, err
	}
	var pids []int
	for word := range strings.FieldsSeq(out) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Dial connects from the host, as a program on it would: its loopback is the
// host's. The address must be numbers.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if h.space == "" {
		return d.DialContext(ctx, network, address)
	}
	// A socket belongs to the namespace in which its thread was when it was made.
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	away, err := os.Open("/run/netns/" + h.space)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	conn, dialErr := d.DialContext(ctx, network, address)
	// A thread that can't come home ends with its goroutine.
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread()
	}
	return conn, dialErr
}

// Cut lets nothing pass any more from one host to another. The other direction
// stays as it is.
func (n *Network) Cut(from, to string) error {
	n.cut[[2]string{from, to}] = true
	return n.point(n.Host(from), n.Host(to), nowhere)
}

// Heal undoes Cut.
func (n *Network) Heal(from, to string) error {
	delete(n.cut, [2]string{from, to})
	return n.point(n.Host(from), n.Host(to), n.Host(to).mac)
}

// Part cuts all wires between two groups of hosts, in both directions.
func (n *Network) Part(some, others []string) error {
	var errs []error
	for _, a := range some {
		for _, b := range others {
			if a != b {
				errs = append(errs, n.Cut(a, b), n.Cut(b, a))
			}
		}
	}
	return errors.Join(errs...)
}

// HealAll undoes all cuts.
func (n *Network) HealAll() error {
	var errs []error
	for pair := range n.cut {
		errs = append(errs, n.Heal(pair[0], pair[1]))
	}
	return errors.Join(errs...)
}

// point tells one host the hardware address of another.
func (n *Network) point(from, to *Host, mac string) error {
	args := []string{"neighbour", "replace", to.Addr, "lladdr", mac, "dev", from.device, "nud", "permanent"}
	if from.space != "" {
		args = append([]string{"-n", from.space}, args...)
	}
	_, err := run("ip", args...)
	return err
}

// Close removes the hosts and the bridge. Processes on hosts are left without a
// network.
func (n *Network) Close() error {
	var errs []error
	for _, h := range n.hosts {
		_, err := run("ip", "netns", "delete", h.space)
		errs = append(errs, err)
	}
	n.hosts = nil
	if n.bridge != "" {
		// A host's end of a wire goes when its namespace does, which may take a
		// moment; this end takes it along.
		ports, _ := filepath.Glob("/sys/class/net/" + n.bridge + "p*")
		for _, port := range ports {
			_, _ = run("ip", "link", "delete", filepath.Base(port)) // it may be gone by itself
		}
		_, err := run("ip", "link", "delete", n.bridge)
		errs = append(errs, err)
	}
	n.bridge = ""
	return errors.Join(errs...)
}

var ours = regexp.MustCompile(`^` + mark + `(\d+)b`)

// sweep removes what programs have left that are no more.
func sweep() {
	for _, place := range []struct {
		pattern string
		remove  []string
	}{
		{"/run/netns/" + mark + "*", []string{"netns", "delete"}},
		{"/sys/class/net/" + mark + "*", []string{"link", "delete"}},
	} {
		found, _ := filepath.Glob(place.pattern)
		for _, path := range found {
			name := filepath.Base(path)
			m := ours.FindStringSubmatch(name)
			if m == nil {
				continue
			}
			pid, err := strconv.Atoi(m[1])
			if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				if place.remove[0] == "netns" {
					killAll(name)
				}
				_, _ = run("ip", append(place.remove, name)...)
			}
		}
	}
}

// killAll ends the processes that a killed program has left on a host of its.
func killAll(space string) {
	pids, err := processes(space)
	if err != nil {
		return
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// run runs a program to its end.
func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
