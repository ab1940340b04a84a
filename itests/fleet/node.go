package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"trestle/itests/jobs"
)

// A Kind of process. Names of nodes begin with it.
type Kind string

// The kinds of processes.
const (
	JobManager  Kind = "jm"
	TaskManager Kind = "tm"
	Serve       Kind = "serve" // both in one
)

// A Node is one process of a Trestle, and its host. It may be started, and end,
// any number of times.
type Node struct {
	Name string
	Kind Kind

	fleet *Fleet
	host  Host
	dir   string
	spare bool
	args  []string // more flags for this one

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// Data is its data directory.
func (n *Node) Data() string { return filepath.Join(n.dir, "data") }

// Log is the file with all that it has printed, over all of its lives.
func (n *Node) Log() string { return filepath.Join(n.dir, "trestle.log") }

func (n *Node) readyFile() string { return filepath.Join(n.dir, "ready.json") }

// With gives it more flags for its next start.
func (n *Node) With(args ...string) { n.args = args }

// Ports of its listeners.
const (
	jobPort     = "8099"
	webPort     = "8081"
	clusterPort = "8098"
	dataPort    = "8097"
)

// JobAddr and WebAddr are for clients. They are on the host's loopback, where
// Trestle has them unless it is told otherwise: see Dial and Command of its host.
func (n *Node) JobAddr() string { return net.JoinHostPort(n.host.Loopback(), jobPort) }
func (n *Node) WebAddr() string { return net.JoinHostPort(n.host.Loopback(), webPort) }

// ClusterAddr and DataAddr are for other Trestles.
func (n *Node) ClusterAddr() string { return net.JoinHostPort(n.host.Address(), clusterPort) }
func (n *Node) DataAddr() string    { return net.JoinHostPort(n.host.Address(), dataPort) }

// Host is where it runs.
func (n *Node) Host() Host { return n.host }

// command is how it is started.
func (n *Node) command() []string {
	f := n.fleet
	var args []string
	switch n.Kind {
	case JobManager:
		args = append([]string{"jobmanager",
			"--name=" + n.Name,
			"--job-addr=" + n.JobAddr(),
			"--web-addr=" + n.WebAddr(),
			"--cluster-addr=" + n.host.Listen(clusterPort),
			"--advertise=" + n.ClusterAddr(),
			"--target-task-size=" + f.cfg.TaskSize}, f.cfg.JobManagerArgs...)
		if n.spare {
			args = append(args, "--join")
		} else {
			args = append(args, "--members="+f.members())
		}
	case TaskManager:
		args = append([]string{"taskmanager",
			"--name=" + n.Name,
			"--jobmanagers=" + f.doors(),
			"--data-addr=" + n.host.Listen(dataPort),
			"--advertise=" + n.DataAddr(),
			fmt.Sprintf("--slots=%d", f.cfg.Slots)}, f.cfg.TaskManagerArgs...)
		if f.cfg.Blob {
			args = append(args, "--shuffle-store=file://"+f.Store())
		}
	case Serve:
		args = []string{"serve",
			"--job-addr=" + n.JobAddr(),
			"--web-addr=" + n.WebAddr(),
			"--target-task-size=" + f.cfg.TaskSize,
			fmt.Sprintf("--slots=%d", f.cfg.Slots)}
	}
	return append(append(args, f.all(n)...), n.args...)
}

// Launch starts the process, which must not run, and doesn't wait for it.
func (n *Node) Launch() error {
	if n.Running() {
		return fmt.Errorf("%s runs", n.Name)
	}
	if n.fleet.cfg.Blob {
		if err := os.MkdirAll(n.fleet.Store(), 0o700); err != nil {
			return err
		}
	}
	_ = os.Remove(n.readyFile())
	log, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := n.host.Command(n.fleet.cfg.Trestle, n.command()...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Environ(), jobs.HostVariable+"="+n.Name, "TMPDIR="+filepath.Join(n.dir, "tmp"))
	// A group of its own: an interrupt at the terminal is the test's, which then
	// cleans up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.exited = cmd, make(chan struct{})
	go func(exited chan struct{}) { // ends with the process
		_ = cmd.Wait() // cmd.ProcessState tells
		close(exited)
	}(n.exited)
	return nil
}

// Ready waits until it says that it serves.
func (n *Node) Ready(ctx context.Context) error {
	ended := false
	err := Await(ctx, startTime, n.Name+" is ready", func() bool {
		var said struct{ PID int }
		text, err := os.ReadFile(n.readyFile())
		ended = !n.Running()
		return ended || err == nil && json.Unmarshal(text, &said) == nil
	})
	if ended {
		err = fmt.Errorf("%s ended at its start: %s", n.Name, n.cmd.ProcessState)
	}
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, Tail(n.Log(), 4<<10))
	}
	return nil
}

// Restart is Launch and Ready.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// Running reports whether the process was started and hasn't ended.
func (n *Node) Running() bool {
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// PID is that of the process that was started last.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Kill ends the process, and that alone, as the out-of-memory killer does.
func (n *Node) Kill() {
	if n.Running() {
		_ = n.cmd.Process.Kill()
		<-n.exited
	}
}

// Pause stops the process, and that alone, until Resume.
func (n *Node) Pause() { _ = n.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (n *Node) Resume() { _ = n.cmd.Process.Signal(syscall.SIGCONT) }

// Slow lets the host's processes run only one part in factor of the time, until
// ctx ends.
func (n *Node) Slow(ctx context.Context, factor int) {
	const pulse = 10 * time.Millisecond
	var pids []int
	for ctx.Err() == nil {
		// Those of last time at once: to look for new ones takes a while.
		signal(pids, syscall.SIGSTOP)
		pids, _ = n.host.Processes() // an error: it is being taken apart
		signal(pids, syscall.SIGSTOP)
		sleep(ctx, pulse*time.Duration(factor-1))
		signal(pids, syscall.SIGCONT)
		sleep(ctx, pulse)
	}
	pids, _ = n.host.Processes()
	signal(pids, syscall.SIGCONT)
}

func signal(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, s)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// PowerOff ends all processes of the host at once.
func (n *Node) PowerOff() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := n.host.Processes()
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range pids {
			if !gone(pid) {
				left++
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d processes don't end", n.Name, left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n.exited != nil {
		<-n.exited
	}
	return nil
}

// Terminate asks the process to stop, and waits until it has, with status 0.
func (n *Node) Terminate(limit time.Duration) error {
	if !n.Running() {
		return fmt.Errorf("%s doesn't run", n.Name)
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.exited:
		if !n.cmd.ProcessState.Success() {
			return fmt.Errorf("%s stopped with %s", n.Name, n.cmd.ProcessState)
		}
		return nil
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("%s did not stop within %s", n.Name, limit), n.PowerOff())
	}
}

// Exited is closed when the process has ended that was started last.
func (n *Node) Exited() <-chan struct{} { return n.exited }

// Tail is the end of a file, for messages.
func Tail(path string, size int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-size):])
}
