//go:build unix

package sandboxd

import (
	"os/exec"
	"syscall"
)

// detach gives the daemon a session of its own, so that neither a terminal's signals nor
// the end of a client's process group reach it.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
