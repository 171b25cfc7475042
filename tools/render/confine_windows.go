package render

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// confineWorker does nothing on Windows. Only the checks of the picture's header and the deadline limit a worker's
// resources.
func confineWorker() error { return nil }

func workerPath() (string, error) { return os.Executable() }

// hideWindow prevents a worker from opening a console window if the parent process has none.
func hideWindow(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: windows.CREATE_NO_WINDOW}
}
