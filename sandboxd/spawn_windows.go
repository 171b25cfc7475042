package sandboxd

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// terminate kills a daemon. Windows has no signal that asks a process without a console to stop; killing is safe, because a home can be
// opened again after its daemon was killed at any moment.
func terminate(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// detach gives the daemon no console, and a process group of its own.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		CreationFlags: windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP,
		HideWindow:    true,
	}
}
