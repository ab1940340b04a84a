package child

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary play one of the parts below.
const roleVariable = "CHILD_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "parent":
		playParent()
	case "family":
		playFamily()
	case "sleeper":
		playSleeper()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		playSleeper()
	}
	goleak.VerifyTestMain(m)
}

func playSleeper() {
	fmt.Println("pid", os.Getpid())
	forever := make(chan os.Signal, 1)
	signal.Notify(forever, syscall.SIGUSR1)
	<-forever
}

// playFamily starts a sleeper in a session of its own, out of reach of signals
// to the group, and sleeps too.
func playFamily() {
	c := role("sleeper")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Stdout = os.Stdout
	if err := c.Start(); err != nil {
		fmt.Println("error", err)
	}
	playSleeper()
}

// playParent keeps a family until it is killed.
func playParent() {
	var k Keeper
	_, err := k.Start(command("family", func(line []byte) { fmt.Printf("%s\n", line) }))
	if err != nil {
		fmt.Println("error", err)
	}
	fmt.Println("guard", k.guard.cmd.Process.Pid)
	playSleeper()
}

func role(name string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleVariable+"="+name)
	return c
}

func command(name string, output func([]byte)) Command {
	return Command{
		Path: os.Args[0], Env: append(os.Environ(), roleVariable+"="+name),
		Mark: fmt.Sprintf("test-%d-%s-%d", os.Getpid(), name, time.Now().UnixNano()), Output: output,
	}
}

// pids collects the numbers that processes print about themselves.
func pids(t *testing.T, lines <-chan string, n int) []int {
	t.Helper()
	var found []int
	for len(found) < n {
		select {
		case line := <-lines:
			what, number, _ := strings.Cut(line, " ")
			pid, err := strconv.Atoi(number)
			if err != nil || what != "pid" && what != "guard" {
				t.Fatalf("unexpected line %q", line)
			}
			found = append(found, pid)
		case <-time.After(20 * time.Second):
			t.Fatalf("only %d of %d processes came up", len(found), n)
		}
	}
	return found
}

// mustEnd waits for the end of a process that need not be a child of ours.
func mustEnd(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		t.Skipf("no pidfd on this kernel: %v", err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 15_000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 {
			t.Errorf("process %d still runs", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return
	}
}

// However we are killed, our children and all that they started, in whatever
// session, are gone, and the guard itself too.
func TestNobodySurvivesOurDeath(t *testing.T) {
	parent := role("parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 16)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		close(lines)
	}()
	all := pids(t, lines, 4)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		if pid != parent.Process.Pid {
			mustEnd(t, pid)
		}
	}
	for range lines {
		t.Log("late output")
	}
	_ = parent.Wait()
}

func TestStopTakesTheWholeFamily(t *testing.T) {
	var k Keeper
	defer k.Close()
	lines := make(chan string, 16)
	p, err := k.Start(command("family", func(line []byte) { lines <- string(line) }))
	if err != nil {
		t.Fatal(err)
	}
	all := pids(t, lines, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	p.Stop(ctx)
	for _, pid := range all {
		mustEnd(t, pid)
	}
	if got := p.Status(); got != "signal: terminated" {
		t.Errorf("status %q", got)
	}
}

// A process that ignores SIGTERM is killed when the grace is over.
func TestStopKillsTheStubborn(t *testing.T) {
	var k Keeper
	defer k.Close()
	lines := make(chan string, 16)
	p, err := k.Start(command("stubborn", func(line []byte) { lines <- string(line) }))
	if err != nil {
		t.Fatal(err)
	}
	pids(t, lines, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.Stop(ctx)
	if got := p.Status(); got != "signal: killed" {
		t.Errorf("status %q", got)
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	var k Keeper
	lines := make(chan string, 16)
	p, err := k.Start(command("family", func(line []byte) { lines <- string(line) }))
	if err != nil {
		t.Fatal(err)
	}
	all := pids(t, lines, 2)
	k.Close()
	<-p.Exited()
	for _, pid := range all {
		mustEnd(t, pid)
	}
	if _, err := k.Start(command("sleeper", nil)); err == nil {
		t.Error("started after Close")
	}
}

func TestTailAndLines(t *testing.T) {
	var k Keeper
	defer k.Close()
	count := 0
	c := Command{
		Path: "sh", Args: []string{"-c", `i=0; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done; printf 'no newline'; exit 3`},
		Env: os.Environ(), Mark: fmt.Sprint("tail-", os.Getpid()), Output: func([]byte) { count++ },
	}
	p, err := k.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if p.Status() != "exit status 3" {
		t.Errorf("status %q", p.Status())
	}
	if count != 2001 {
		t.Errorf("%d lines, want 2001", count)
	}
	tail := p.Tail()
	if len(tail) > tailBytes || !strings.HasPrefix(tail, "line ") || !strings.HasSuffix(tail, "line 1999\nno newline") {
		t.Errorf("tail of %d bytes begins %.20q and ends %q", len(tail), tail, tail[max(0, len(tail)-30):])
	}
}

func TestStartErrorsSayWhatWouldBeRight(t *testing.T) {
	var k Keeper
	defer k.Close()
	_, err := k.Start(Command{Path: "/nowhere/boot --flag", Mark: "none"})
	if err == nil || !strings.Contains(err.Error(), "without a shell") {
		t.Errorf("error %v", err)
	}
	if err := Runnable("no-such-program-here"); err == nil {
		t.Error("found no-such-program-here")
	}
}
