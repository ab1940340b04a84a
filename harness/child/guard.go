package child

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// guardVariable in the environment turns a process of this program into a
// guard.
const guardVariable = "TRESTLE_CHILD_GUARD"

// undoTime bounds each Undo command that the guard runs.
const undoTime = 10 * time.Second

// init makes the guard out of any program that has this package in it, a test
// binary too. A hook to be called first thing in main would be plainer, but the
// program that forgets it would start itself again and again.
func init() {
	if os.Getenv(guardVariable) == "" {
		return
	}
	// The guard ends when the pipe does, and for nothing else: who stops
	// everything with one signal must not stop the guard before us.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	guard(os.Stdin)
	os.Exit(0)
}

// A watched child, as the guard knows it. One without a group is to be
// forgotten.
type watched struct {
	Mark  string   `json:"mark"`
	Group int      `json:"group,omitempty"`
	Undo  []string `json:"undo,omitempty"`
}

// guard keeps a list of children until the pipe breaks and kills what is on it.
func guard(pipe io.Reader) {
	children := map[string]watched{}
	for in := json.NewDecoder(pipe); ; {
		var w watched
		if err := in.Decode(&w); err != nil {
			break
		}
		if w.Group == 0 {
			delete(children, w.Mark)
		} else {
			children[w.Mark] = w
		}
	}
	for _, w := range children {
		killAll(w.Group, w.Mark)
	}
	for _, w := range children {
		if len(w.Undo) > 0 {
			undo := exec.Command(w.Undo[0], w.Undo[1:]...)
			undo.WaitDelay = undoTime
			if undo.Start() == nil {
				limit := time.AfterFunc(undoTime, func() { _ = undo.Process.Kill() })
				_ = undo.Wait()
				limit.Stop()
			}
		}
	}
}

// A guardian is our end of the guard.
type guardian struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser

	mu  sync.Mutex
	out *json.Encoder // into pipe
}

func startGuard() (*guardian, error) {
	self, err := Self()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Args[0] = "trestle-guard"
	cmd.Env = append(os.Environ(), guardVariable+"=1")
	cmd.Dir = "/"
	// A group of its own, out of reach of the terminal's ^C. It must not die with
	// a thread of ours, so it has no parent-death signal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guardian{cmd: cmd, pipe: pipe, out: json.NewEncoder(pipe)}, nil
}

// tell passes w on. The guard reads all the time, so this doesn't block; if it
// was killed, the kernel's signal must do.
func (g *guardian) tell(w watched) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.out.Encode(w)
}

func (g *guardian) watch(mark string, group int, undo []string) {
	g.tell(watched{Mark: mark, Group: group, Undo: undo})
}

func (g *guardian) forget(mark string) { g.tell(watched{Mark: mark}) }

func (g *guardian) close() {
	g.pipe.Close()
	_ = g.cmd.Wait()
}
