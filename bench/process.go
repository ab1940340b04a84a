package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is a started program whose CPU and memory can be read, together
// with the processes that it starts itself.
type process struct {
	cmd    *exec.Cmd
	log    string        // file with all that it prints
	exited chan struct{} // closed at its end
}

const stopTime = 15 * time.Second

// launch starts a program in a process group of its own, its output in a file.
func launch(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() { // ends with the process, for which stop waits
		_ = cmd.Wait() // cmd.ProcessState tells, if anybody asks
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// await polls until the process is ready, as a script would.
func (p *process) await(ctx context.Context, within time.Duration, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended at its start: %s\n%s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, excerpt(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready within %s\n%s", filepath.Base(p.cmd.Path), within, excerpt(p.log))
		case <-tick.C:
		}
	}
	return nil
}

// stop ends the process, and whatever it has started and left behind.
func (p *process) stop() {
	left, _ := descendants(p.pid())
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	for _, d := range left {
		if now, err := readStat(d.pid); err == nil && now.started == d.started {
			_ = syscall.Kill(d.pid, syscall.SIGKILL)
		}
	}
}

// An account is CPU time up to a moment.
type account struct {
	self  time.Duration // of the process itself
	below time.Duration // of all processes below it, ended ones included
}

func (a account) since(b account) account { return account{a.self - b.self, a.below - b.below} }

// account reads the CPU time of the process. What it has waited for is in its
// own statistics and what runs is read one by one; if a child ended between
// the two, it reads again.
func (p *process) account() (account, error) {
	for {
		before, err := readStat(p.pid())
		if err != nil {
			return account{}, err
		}
		below := before.reaped
		alive, err := descendants(p.pid())
		if err != nil {
			return account{}, err
		}
		for _, d := range alive {
			below += d.cpu + d.reaped
		}
		if after, err := readStat(p.pid()); err == nil && after.reaped == before.reaped {
			return account{before.cpu, below}, nil
		}
	}
}

// resetPeak makes the kernel forget the greatest memory so far.
func (p *process) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid()), []byte("5"), 0)
}

// peak is the greatest resident memory of the process alone.
func (p *process) peak() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", p.pid())
}

// A stat is what /proc/PID/stat says.
type stat struct {
	pid, parent int
	cpu, reaped time.Duration // its own; of children that it has waited for
	started     uint64        // tells processes with the same number apart
}

// tick is the unit of times in /proc: USER_HZ, 100 a second on every Linux.
const tick = 10 * time.Millisecond

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, in parentheses, may hold anything; the rest are numbers.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const parent, utime, stime, cutime, cstime, start = 1, 11, 12, 13, 14, 19
	if len(fields) <= start {
		return stat{}, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var n [start + 1]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(fields[i], 10, 64) // field 0 is a letter
	}
	return stat{
		pid: pid, parent: int(n[parent]),
		cpu:     time.Duration(n[utime]+n[stime]) * tick,
		reaped:  time.Duration(n[cutime]+n[cstime]) * tick,
		started: uint64(n[start]),
	}, nil
}

// busyTime is the CPU time that all processes of the machine have used, and
// what a host took away from it.
func busyTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d",
		&user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq+steal) * tick, nil
}

// descendants are all living processes below pid, parents first.
func descendants(pid int) ([]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]stat{}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(n); err == nil { // else it has just ended
			children[s.parent] = append(children[s.parent], s)
		}
	}
	found := append([]stat(nil), children[pid]...)
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// excerpt is the beginning and the end of a log, for messages. Clients tell
// what is wrong first and then print stacks.
func excerpt(path string) string {
	const begin, end = 3 << 10, 1 << 10
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) <= begin+end {
		return string(text)
	}
	return fmt.Sprintf("%s\n… %d bytes …\n%s", text[:begin], len(text)-begin-end, text[len(text)-end:])
}
