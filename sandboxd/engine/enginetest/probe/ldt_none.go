//go:build linux && !amd64

package main

// modifyLDT does not exist on this architecture. This value is the number of no system call.
const modifyLDT = ^uintptr(0)
