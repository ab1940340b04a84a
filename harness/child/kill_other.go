//go:build unix && !linux

package child

import (
	"os"
	"os/exec"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func executable() (string, error) { return os.Executable() }

// awaitExit waits for the end of a child and takes its status. The group's
// number stays its own for as long as a process is left in it.
func awaitExit(cmd *exec.Cmd) { _ = cmd.Wait() }

func killAll(group int, _ string) { _ = syscall.Kill(-group, syscall.SIGKILL) }
