package child

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// sweeps bounds the rounds of a search for marked processes, each of which may
// be starting another while we look.
const sweeps = 5

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// Self names this program, even if its file has been replaced since: whoever is
// started by it is of the same version.
func Self() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err != nil { // no /proc here
		return os.Executable()
	}
	return self, nil
}

// awaitExit waits for the end of a child, and leaves it a zombie.
func awaitExit(cmd *exec.Cmd) {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// killAll kills a process group, and then every process that bears the mark.
func killAll(group int, mark string) {
	_ = syscall.Kill(-group, syscall.SIGKILL)
	for range sweeps {
		if !killMarked(mark) {
			return
		}
	}
}

// killMarked reports whether it found any.
func killMarked(mark string) bool {
	want := []byte(MarkVariable + "=" + mark)
	found := false
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return false
	}
	for _, path := range environs {
		// Processes of other users, and those that have just ended, can't be read.
		environ, err := os.ReadFile(path)
		if err != nil || !marked(environ, want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() && syscall.Kill(pid, syscall.SIGKILL) == nil {
			found = true
		}
	}
	return found
}

func marked(environ, want []byte) bool {
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.Equal(v, want) {
			return true
		}
	}
	return false
}
