//go:build linux && !amd64

package main

// modifyLDT does not exist on this architecture. No system call has this number.
const modifyLDT = ^uintptr(0)
