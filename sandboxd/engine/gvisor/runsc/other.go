//go:build !linux

package runsc

import (
	"os"
	"os/exec"
)

// These functions only make the package compile: the gvisor engine fails to open on other systems than Linux.

func detach(*exec.Cmd)                  {}
func startInCgroup(*exec.Cmd, *os.File) {}

// Rootless returns false.
func Rootless() bool { return false }

// TryNamespace does nothing.
func TryNamespace(string) error { return nil }

// RaiseOOMScore does nothing.
func RaiseOOMScore(int) {}
