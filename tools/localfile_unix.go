//go:build unix

package tools

import "syscall"

// openWithoutWaiting keeps an open from waiting for the other end of a FIFO or a device, and from making a terminal this
// process's own.
const openWithoutWaiting = syscall.O_NONBLOCK | syscall.O_NOCTTY
