//go:build !linux

package directexec

// Find returns false: on this operating system the engine runs in a virtual machine.
func Find(string, int) (r Runtime, ok bool) { return r, false }
