//go:build !linux

package docker

// localRuntime returns false: on this operating system the engine runs in a virtual machine.
func localRuntime(string, int) (r ociRuntime, ok bool) { return r, false }
