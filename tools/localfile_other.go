//go:build !unix

package tools

// openWithoutWaiting is no flag: on this operating system opening a file does not wait.
const openWithoutWaiting = 0
