//go:build unix

package tools

import "syscall"

// openWithoutWaiting contains flags for opening a file. With them, the open does not wait for the other end of a FIFO
// or for a device, and a terminal does not become the controlling terminal of this process.
const openWithoutWaiting = syscall.O_NONBLOCK | syscall.O_NOCTTY
