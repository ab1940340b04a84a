package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
)

// A group is a Trestle of many processes on this machine's loopback.
type group struct {
	t        *testing.T
	managers []*node // JobManagers
	workers  []*node // TaskManagers
}

// A node is a process that may be killed and started again.
type node struct {
	name, dir string
	args      []string
	web, job  string // of a JobManager
	cmd       *exec.Cmd
	exited    chan struct{}
}

// startGroup starts JobManagers and TaskManagers and waits until one leads.
func startGroup(t *testing.T, managers, workers int) *group {
	t.Helper()
	g := &group{t: t}
	dir := t.TempDir()
	addrs := addresses(t, 3*managers+2*workers)
	take := func() string { a := addrs[0]; addrs = addrs[1:]; return a }
	var members, doors []string
	for i := range managers {
		n := &node{name: "jm" + strconv.Itoa(i+1), job: take(), web: take()}
		at := take()
		members, doors = append(members, n.name+"="+at), append(doors, at)
		n.args = []string{"jobmanager", "--name=" + n.name, "--job-addr=" + n.job, "--web-addr=" + n.web, "--cluster-addr=" + at}
		g.managers = append(g.managers, n)
	}
	for i := range g.managers {
		g.managers[i].args = append(g.managers[i].args, "--members="+strings.Join(members, ","))
	}
	for i := range workers {
		n := &node{name: "tm" + strconv.Itoa(i+1), web: take()}
		n.args = []string{"taskmanager", "--name=" + n.name, "--web-addr=" + n.web, "--data-addr=" + take(), "--jobmanagers=" + strings.Join(doors, ","), "--slots=2"}
		g.workers = append(g.workers, n)
	}
	for _, n := range append(g.managers[:len(g.managers):len(g.managers)], g.workers...) {
		n.dir = filepath.Join(dir, n.name)
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		n.args = append(n.args, "--data="+filepath.Join(n.dir, "data"), "--memory=512MiB")
		g.start(n)
		t.Cleanup(func() {
			n.kill()
			if t.Failed() {
				text, _ := os.ReadFile(filepath.Join(n.dir, "log"))
				t.Logf("%s's log ends:\n%s", n.name, text[max(0, len(text)-3<<10):])
			}
		})
	}
	g.leader()
	for _, n := range g.workers {
		g.await(time.Minute, n.name+" serves", func() bool {
			_, err := n.ask("/healthz")
			return err == nil
		})
	}
	return g
}

// addresses are free ones.
func addresses(t *testing.T, n int) []string {
	t.Helper()
	ports, err := broker.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range ports {
		all = append(all, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	return all
}

func (g *group) start(n *node) {
	g.t.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(*program, n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	n.exited = make(chan struct{})
	go func(exited chan struct{}, cmd *exec.Cmd) { // ends with the process
		_ = cmd.Wait()
		close(exited)
	}(n.exited, n.cmd)
}

// kill ends the process alone, at once.
func (n *node) kill() {
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.exited
}

// ask gets a page of the first node that has it.
func (g *group) ask(path string) ([]byte, error) {
	var err error
	for _, n := range g.managers {
		var text []byte
		if text, err = n.ask(path); err == nil {
			return text, nil
		}
	}
	return nil, err
}

func (n *node) ask(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.web+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %.200s", n.name, path, r.Status, text)
	}
	return text, err
}

// leader waits until a JobManager leads.
func (g *group) leader() *node {
	g.t.Helper()
	var found *node
	g.await(time.Minute, "a leader", func() bool {
		for _, n := range g.managers {
			if text, err := n.ask("/metrics"); err == nil && strings.Contains("\n"+string(text), "\ntrestle_leader 1\n") {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

func (g *group) await(limit time.Duration, what string, holds func() bool) {
	g.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			g.t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// state is a job's, with why it has failed; "" if nobody says.
func (g *group) state(job string) (state, failure string) {
	text, err := g.ask("/api/v1/jobs/" + job)
	var j struct{ State, Error string }
	if err != nil || json.Unmarshal(text, &j) != nil {
		return "", ""
	}
	return j.State, j.Error
}

// replay submits trestle kafka replay and returns the job's id.
func (g *group) replay(servers, topic string, more ...string) string {
	g.t.Helper()
	var said []byte
	g.await(time.Minute, "a JobManager takes the job", func() bool {
		for _, n := range g.managers {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			args := append([]string{"kafka", "replay", topic, "--detach", "--brokers=" + servers, "--job-addr=" + n.job, "--web-addr=" + n.web}, more...)
			cmd := exec.CommandContext(ctx, *program, args...)
			var err error
			said, err = cmd.Output()
			cancel()
			if err == nil {
				return true
			}
			var x *exec.ExitError
			if errors.As(err, &x) {
				g.t.Logf("%s: %v: %s", n.name, err, x.Stderr)
			}
		}
		return false
	})
	return strings.TrimSpace(string(said))
}

// done waits until a job has ended well.
func (g *group) done(job string) {
	g.t.Helper()
	g.await(10*time.Minute, "job "+job+" has ended", func() bool {
		state, failure := g.state(job)
		if state == "FAILED" || state == "CANCELLED" {
			g.t.Fatalf("job %s is %s: %s", job, state, failure)
		}
		return state == "DONE"
	})
}

// messages are what a job's author was told.
func (g *group) messages(job string) string {
	g.t.Helper()
	text, err := g.ask("/api/v1/jobs/" + job + "/messages")
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// harnesses are the SDK workers that TaskManagers have started.
func (g *group) harnesses() []int {
	var pids []int
	for _, tm := range g.workers {
		pids = append(pids, descendants(tm.cmd.Process.Pid, "harness")...)
	}
	return pids
}

// descendants are the processes below one whose command line has a word.
func descendants(of int, word string) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Fields(string(text))[0])
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
	}
	var found []int
	for todo := []int{of}; len(todo) > 0; todo = todo[1:] {
		for _, pid := range children[todo[0]] {
			todo = append(todo, pid)
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && strings.Contains("\x00"+string(line), "\x00"+word+"\x00") {
				found = append(found, pid)
			}
		}
	}
	return found
}
