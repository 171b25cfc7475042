//go:build unix

package sandboxd

import (
	"os"
	"os/exec"
	"syscall"
)

// terminate sends SIGTERM to a daemon, which then stops.
func terminate(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGTERM)
}

// detach makes the daemon start in a new session, so that neither signals from the terminal nor signals to the client's
// process group reach it.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
