//go:build unix

package sandboxd

import (
	"os"
	"os/exec"
	"syscall"
)

// terminate asks a daemon to stop.
func terminate(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGTERM)
}

// detach gives the daemon a session of its own, so that neither a terminal's signals nor
// the end of a client's process group reach it.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
