//go:build !linux

package cgroup

// delegated only makes the package compile: the gvisor engine fails to open on other systems than Linux.
func delegated() Trees { return Trees{} }
