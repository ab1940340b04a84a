//go:build unix && !linux

package child

import (
	"os"
	"os/exec"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Self names this program. What stands at its path by then may be another
// version, if the file has been replaced.
func Self() (string, error) { return os.Executable() }

// awaitExit waits for the end of a child and takes its status. The group's
// number stays its own for as long as a process is left in it.
func awaitExit(cmd *exec.Cmd) { _ = cmd.Wait() }

func killAll(group int, _ string) { _ = syscall.Kill(-group, syscall.SIGKILL) }
