package home

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// terminate kills a daemon, because Windows has no signal that asks a process without a console to stop. Killing is safe: a
// home can be opened again after its daemon was killed at any moment.
func terminate(p *os.Process) error { return p.Kill() }

// detach makes the daemon start without a console and in a new process group.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP,
		HideWindow:    true,
	}
}
