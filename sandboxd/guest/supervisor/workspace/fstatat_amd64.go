//go:build linux

package workspace

import "syscall"

const sysFstatat = syscall.SYS_NEWFSTATAT
