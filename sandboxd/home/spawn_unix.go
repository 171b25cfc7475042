//go:build unix

package home

import (
	"os"
	"os/exec"
	"syscall"
)

// terminate sends SIGTERM to a daemon, which then stops.
func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

// detach makes the daemon start in a new session, so that neither signals from the terminal nor signals to the client's
// process group reach it.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
