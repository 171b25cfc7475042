//go:build !linux

package gvisor

// These functions only make the package compile: New fails on other systems than Linux.

func totalMemory() int64 { return 0 }
func lowerPriority()     {}
