//go:build !unix

package tools

// openWithoutWaiting is 0 on this operating system, where opening a file does not wait.
const openWithoutWaiting = 0
