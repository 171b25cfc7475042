//go:build unix

package tools

import "syscall"

// openWithoutWaiting are flags with which an open does not wait for the other end of a FIFO or a device, and does not make a terminal
// the controlling terminal of this process.
const openWithoutWaiting = syscall.O_NONBLOCK | syscall.O_NOCTTY
