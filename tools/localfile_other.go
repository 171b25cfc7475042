//go:build !unix

package tools

// openWithoutWaiting is nothing where an open does not wait.
const openWithoutWaiting = 0
