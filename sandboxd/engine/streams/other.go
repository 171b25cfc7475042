//go:build !linux

package streams

import (
	"os"
	"os/exec"
)

func growPipe(*os.File) {}
func detach(*exec.Cmd)  {}
