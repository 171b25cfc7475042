//go:build linux

package supervisor

import "syscall"

const sysFstatat = syscall.SYS_FSTATAT
