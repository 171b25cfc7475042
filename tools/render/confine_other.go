//go:build !linux && !windows

package render

import (
	"os"
	"os/exec"
)

// confineWorker does nothing on this operating system. Only the checks of the picture's header and the deadline limit a
// worker's resources.
func confineWorker() error { return nil }

func workerPath() (string, error) { return os.Executable() }

func hideWindow(*exec.Cmd) {}
