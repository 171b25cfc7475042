//go:build !linux

package docker

// localRuntime finds none: the engine is in a virtual machine.
func localRuntime(string, int) (r ociRuntime, ok bool) { return r, false }
