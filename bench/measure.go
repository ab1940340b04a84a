package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A measurement is what one job cost.
type measurement struct {
	wall   time.Duration // of the client, from its start to its end
	runner time.Duration // CPU of the runner's process
	worker time.Duration // CPU of the workers; with LOOPBACK, the client is the worker
	client time.Duration // CPU of a client that is no worker
	beside time.Duration // CPU of what the job needs beside them, such as a broker
	others time.Duration // CPU of all else on the machine meanwhile
	peak   int64         // greatest memory of the runner's process, in bytes
	stdout []byte        // of the client
}

// limit is the wall time of a runner that keeps all cores busy.
func (m measurement) limit() time.Duration {
	return (m.runner + m.worker + m.client + m.beside) / time.Duration(runtime.NumCPU())
}

// String is a line for who watches.
func (m measurement) String() string {
	return fmt.Sprintf("wall %s  runner %s  worker %s  client %s  beside %s  others %s  idle %s  peak %s", seconds(m.wall),
		seconds(m.runner), seconds(m.worker), seconds(m.client), seconds(m.beside), seconds(m.others), seconds(m.idle()), megabytes(m.peak))
}

// idle is the CPU time that nobody used.
func (m measurement) idle() time.Duration {
	return m.wall*time.Duration(runtime.NumCPU()) - m.runner - m.worker - m.client - m.beside - m.others
}

// onServer runs a client against a started runner.
func onServer(ctx context.Context, s *server, cmd *exec.Cmd, loopback bool) (measurement, error) {
	if err := s.resetPeak(); err != nil {
		return measurement{}, err
	}
	before, err := s.account()
	if err != nil {
		return measurement{}, err
	}
	busy, err := busyTime()
	if err != nil {
		return measurement{}, err
	}
	m, self, below, err := runClient(ctx, cmd)
	if err != nil {
		return m, fmt.Errorf("%w\nthe runner's log:\n%s", err, excerpt(s.log))
	}
	after, err := s.account()
	if err != nil {
		return m, fmt.Errorf("the runner has ended: %w\n%s", err, excerpt(s.log))
	}
	spent := after.since(before)
	m.runner, m.worker = spent.self, spent.below
	if loopback {
		m.worker += self + below
	} else {
		m.client = self + below
	}
	if m.others, err = m.othersSince(busy); err != nil {
		return m, err
	}
	m.peak, err = s.peak()
	return m, err
}

// alone runs a client that is the runner, too, and whose children are the
// workers.
func alone(ctx context.Context, cmd *exec.Cmd) (measurement, error) {
	busy, err := busyTime()
	if err != nil {
		return measurement{}, err
	}
	m, self, below, err := runClient(ctx, cmd)
	m.runner, m.worker = self, below
	if err == nil {
		m.others, err = m.othersSince(busy)
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		m.peak = u.Maxrss << 10
	}
	return m, err
}

// othersSince is the CPU time of processes that are not measured. Figures of a
// machine that others use are worth little but for their CPU seconds.
func (m measurement) othersSince(busy time.Duration) (time.Duration, error) {
	now, err := busyTime()
	return max(0, now-busy-m.runner-m.worker-m.client), err
}

// runClient runs a client to its end and reads its CPU, its children's apart.
func runClient(ctx context.Context, cmd *exec.Cmd) (m measurement, self, below time.Duration, err error) {
	dir, err := os.MkdirTemp("", "bench-client-")
	if err != nil {
		return m, 0, 0, err
	}
	defer os.RemoveAll(dir)
	logs, out := filepath.Join(dir, "stderr"), filepath.Join(dir, "stdout")
	stdout, err := os.Create(out)
	if err != nil {
		return m, 0, 0, err
	}
	defer stdout.Close()
	stderr, err := os.Create(logs)
	if err != nil {
		return m, 0, 0, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = append(cmd.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return m, 0, 0, err
	}
	pid := cmd.Process.Pid
	release := context.AfterFunc(ctx, func() { _ = syscall.Kill(-pid, syscall.SIGKILL) })
	defer release()
	ended, err := waitUnreaped(pid)
	m.wall = time.Since(began)
	if err == nil {
		self, below = ended.cpu, ended.reaped
	}
	if werr := cmd.Wait(); werr != nil {
		err = werr
	}
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // what it has left behind
	if err != nil {
		return m, self, below, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, excerpt(logs))
	}
	m.stdout, err = os.ReadFile(out)
	return m, self, below, err
}

// waitUnreaped waits for a child's end and reads its statistics before Wait
// makes them disappear.
func waitUnreaped(pid int) (stat, error) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return readStat(pid)
		}
		if !errors.Is(err, syscall.EINTR) {
			return stat{}, err
		}
	}
}

// median has the median of each figure on its own.
func median(ms []measurement) measurement {
	return measurement{
		wall:   middle(ms, func(m measurement) time.Duration { return m.wall }),
		runner: middle(ms, func(m measurement) time.Duration { return m.runner }),
		worker: middle(ms, func(m measurement) time.Duration { return m.worker }),
		client: middle(ms, func(m measurement) time.Duration { return m.client }),
		beside: middle(ms, func(m measurement) time.Duration { return m.beside }),
		peak:   middle(ms, func(m measurement) int64 { return m.peak }),
	}
}

func middle[T ~int64](ms []measurement, of func(measurement) T) T {
	var values []T
	for _, m := range ms {
		values = append(values, of(m))
	}
	return quantile(values, 0.5)
}

// quantile is the value below which that part of all values lies.
func quantile[T ~int64](values []T, part float64) T {
	slices.Sort(values)
	return values[int(part*float64(len(values)-1)+0.5)]
}

// recordProfile reads a CPU profile of Trestle until ctx ends or the time is
// over, whichever is first.
func recordProfile(ctx context.Context, web, file string, length time.Duration) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", web, max(1, int(length.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: %s", resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
