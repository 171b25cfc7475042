//go:build linux

package main

import "golang.org/x/sys/unix"

const modifyLDT = unix.SYS_MODIFY_LDT
