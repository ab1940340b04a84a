// Package child starts processes that do not outlive us.
//
// Each child leads a process group, and all that it starts carry its mark, a
// variable in their environment. Stop asks the group to end and then kills
// whatever is left of the group or bears the mark. That is the tidy end; three
// things see to the others:
//
//   - The kernel kills the child when the thread that started it dies
//     (PR_SET_PDEATHSIG). Threads of a Go program come and go, so one thread is
//     locked for the Keeper's life and starts every child.
//   - A guard, a second process of this same program, holds the end of a pipe
//     from us. When the pipe breaks, we are gone, by SIGKILL perhaps, and the
//     guard kills the groups and marks that it was told of. It reaches what the
//     kernel's signal does not: the children of our children.
//   - When a child ends by itself, what it leaves behind is killed before its
//     group's number can be used again.
//
// On systems other than Linux there is no kernel signal and no search for
// marks; groups and the guard remain.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// MarkVariable names the variable that holds a process's mark.
const MarkVariable = "TRESTLE_CHILD"

const (
	tailBytes = 8 << 10
	lineBytes = 64 << 10
	// drainTime bounds the wait for output after the end of a child, in case a
	// process that could not be found still holds the pipe.
	drainTime = time.Second
)

// A Command says what to start.
type Command struct {
	Path string   // of the program, or its name to be looked for in PATH
	Name string   // that it is told to have been started by; Path if empty
	Args []string // without the program's name; no shell sees them
	Env  []string
	Dir  string
	// Mark is unique among all children, and never reused.
	Mark string
	// Output is given each line that the child writes to its standard output or
	// error, without the newline, cut at 64 KiB. The bytes are valid during the
	// call. Calls don't overlap. May be nil.
	Output func(line []byte)
	// Undo is a command that removes what the child leaves behind elsewhere,
	// such as a container. The guard runs it if we can't. May be nil.
	Undo []string
}

// A Keeper starts children and ends them all when it is closed. The zero value
// is ready.
type Keeper struct {
	mu       sync.Mutex
	starting chan func() // to the starting thread; nil before the first child
	guard    *guardian
	closed   bool
	running  map[*Process]struct{}
	work     sync.WaitGroup // the starting thread and each child's reaper
}

// A Process is one child.
type Process struct {
	cmd    *exec.Cmd
	mark   string
	exited chan struct{} // closed when nothing is left of it

	mu     sync.Mutex
	tail   []byte // the last output, at most tailBytes
	reaped bool   // its number may be another process's by now
}

// Start starts a child.
func (k *Keeper) Start(c Command) (*Process, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, errors.New("start process: shutting down")
	}
	if err := k.begin(); err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	p := &Process{cmd: exec.Command(c.Path, c.Args...), mark: c.Mark, exited: make(chan struct{})}
	if c.Name != "" {
		p.cmd.Args[0] = c.Name
	}
	p.cmd.Env = append(c.Env[:len(c.Env):len(c.Env)], MarkVariable+"="+c.Mark)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout, p.cmd.Stderr = write, write
	p.cmd.SysProcAttr = attributes()

	failed := make(chan error, 1)
	k.starting <- func() { failed <- p.cmd.Start() }
	err = <-failed
	write.Close()
	if err != nil {
		read.Close()
		return nil, startError(c.Path, err)
	}
	k.guard.watch(c.Mark, p.cmd.Process.Pid, c.Undo)
	k.running[p] = struct{}{}
	k.work.Go(func() { k.reap(p, read, c.Output) })
	return p, nil
}

// begin starts the thread and the guard that the first child needs.
func (k *Keeper) begin() error {
	if k.starting != nil {
		return nil
	}
	guard, err := startGuard()
	if err != nil {
		return fmt.Errorf("start the guard process: %w", err)
	}
	k.guard = guard
	k.running = map[*Process]struct{}{}
	k.starting = make(chan func())
	k.work.Go(func() {
		// Never unlocked: the thread must not be used for anything else, and ends
		// with this goroutine, when all children are gone.
		runtime.LockOSThread()
		for start := range k.starting {
			start()
		}
	})
	return nil
}

// startError says what would be right where a command can't be run.
func startError(path string, err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		if strings.ContainsAny(path, " \t") {
			return fmt.Errorf("no program %q: the command is run without a shell; name one program, and put its arguments into a script", path)
		}
		return fmt.Errorf("no program %q", path)
	}
	return fmt.Errorf("start %q: %w", path, err)
}

// reap collects the child's output and its end.
func (k *Keeper) reap(p *Process, output *os.File, line func([]byte)) {
	var reading sync.WaitGroup
	reading.Go(func() { p.collect(output, line) })

	awaitExit(p.cmd)
	// Its number is not given to another process before we have taken the exit
	// status, so the group is still its own.
	p.signal(func() { killAll(p.Pid(), p.mark) })
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
	_ = output.SetReadDeadline(time.Now().Add(drainTime))
	reading.Wait()
	output.Close()
	_ = p.cmd.Wait() // its error is the exit status, which Status tells; a second Wait does nothing

	k.guard.forget(p.mark)
	k.mu.Lock()
	delete(k.running, p)
	k.mu.Unlock()
	close(p.exited)
}

// collect reads output to its end.
func (p *Process) collect(output *os.File, line func([]byte)) {
	buf := make([]byte, lineBytes)
	n := 0
	for {
		m, err := output.Read(buf[n:])
		p.remember(buf[n : n+m])
		n += m
		rest := buf[:n]
		for {
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				break
			}
			give(line, rest[:end])
			rest = rest[end+1:]
		}
		if len(rest) == len(buf) || err != nil && len(rest) > 0 {
			give(line, rest)
			rest = nil
		}
		n = copy(buf, rest)
		if err != nil {
			return
		}
	}
}

func give(line func([]byte), text []byte) {
	if line != nil {
		line(bytes.TrimSuffix(text, []byte("\r")))
	}
}

// remember keeps the last of what was written.
func (p *Process) remember(text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tail = append(p.tail, text...)
	if over := len(p.tail) - tailBytes; over > 0 {
		p.tail = append(p.tail[:0], p.tail[over:]...)
	}
}

// Pid is the child's process id and that of its group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the child and all that it started are gone and its
// output has been read.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status tells how the child ended: "exit status 3", "signal: killed". Only
// after Exited.
func (p *Process) Status() string { return p.cmd.ProcessState.String() }

// Tail is the last that the child wrote, a few KiB at most, from the beginning
// of a line where possible.
func (p *Process) Tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	tail := p.tail
	if len(tail) == tailBytes {
		if _, after, found := bytes.Cut(tail, []byte("\n")); found {
			tail = after
		}
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(tail)), "\uFFFD")
}

// Stop asks the child's group to end (SIGTERM), kills what is left when ctx
// ends, and returns when nothing is.
func (p *Process) Stop(ctx context.Context) {
	select {
	case <-p.exited:
		return
	default:
	}
	// An error means that the group is gone already.
	p.signal(func() { _ = syscall.Kill(-p.Pid(), syscall.SIGTERM) })
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
	}
}

// kill ends the child and waits for its end.
func (p *Process) kill() {
	p.signal(func() { killAll(p.Pid(), p.mark) })
	<-p.exited
}

// signal calls send if the child's number is still its own.
func (p *Process) signal(send func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		send()
	}
}

// Close kills the children that still run and ends the guard. Nothing can be
// started any more. When it returns no process and no goroutine is left.
func (k *Keeper) Close() {
	k.mu.Lock()
	if k.closed || k.starting == nil {
		k.closed = true
		k.mu.Unlock()
		return
	}
	k.closed = true
	left := make([]*Process, 0, len(k.running))
	for p := range k.running {
		left = append(left, p)
	}
	k.mu.Unlock()

	for _, p := range left {
		p.kill()
	}
	close(k.starting)
	k.work.Wait()
	k.guard.close()
}

// Runnable says whether Start would find the program.
func Runnable(path string) error {
	if _, err := exec.LookPath(path); err != nil {
		return startError(path, err)
	}
	return nil
}
