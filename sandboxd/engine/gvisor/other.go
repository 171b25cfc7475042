//go:build !linux

package gvisor

import (
	"os"
	"os/exec"
)

// These functions only make the package compile: New fails on other systems than Linux.

func detach(*exec.Cmd)                  {}
func startInCgroup(*exec.Cmd, *os.File) {}
func rootless() bool                    { return false }
func tryNamespace(string) error         { return nil }
func totalMemory() int64                { return 0 }
func raiseOOMScore(int)                 {}
func lowerPriority()                    {}
