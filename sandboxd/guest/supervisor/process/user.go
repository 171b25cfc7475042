//go:build linux

package process

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// User is the kernels' user. Its methods let the guest act as that user, and may be called concurrently.
type User struct {
	uid, gid int
	own      []uint32 // the guest's own supplementary groups
}

const unchanged = ^uintptr(0) // the argument of setresuid and setresgid that leaves an id unchanged

// NewUser returns the user with this uid and the same gid. It returns an error if kernels must not have the uid.
func NewUser(uid int) (User, error) {
	if uid <= 0 || uid == unusedUID {
		return User{}, fmt.Errorf("uid %d can't be the kernels' user: use a uid above 0 that is not %d", uid, unusedUID)
	}
	groups, err := syscall.Getgroups()
	if err != nil {
		return User{}, fmt.Errorf("read the guest's groups: %w", err)
	}
	u := User{uid: uid, gid: uid}
	for _, g := range groups {
		u.own = append(u.own, uint32(g))
	}
	return u, nil
}

// RunAs runs f on this goroutine with the rights of the kernels' user. Even if a kernel replaces a path with a
// link while f uses it, f can reach no more than the kernel can. f should only call functions such as open, rename
// and stat; the caller uses the opened files after f has returned.
//
// Why this is safe:
//   - Linux stores credentials for each thread. RunAs makes raw system calls, so that they change only this thread
//     (syscall.Setresuid would change all threads), and locks the goroutine to it. Go never starts a new thread from
//     a locked one, so no other goroutine inherits the credentials.
//   - Only the effective ids change; the real and saved ids stay 0. So a kernel can't signal or trace this thread
//     while its effective uid is the kernel's: a signal requires that the real or the saved uid matches, a trace that
//     all three match.
//   - An effective uid other than 0 removes the effective capabilities. They return with the effective uid 0, which
//     can be set again because the saved uid is 0.
//   - The ids are verified after they were changed, and again after they were restored. If restore fails, the thread
//     stays locked and ends with its goroutine, so no other goroutine runs with the wrong rights.
func (u User) RunAs(f func() error) error { return u.as(u.assume, f) }

// unusedUID is a uid that no process has: kernels have uids from 199,999 on, or from 1,000 to 61,000 if the engine
// maps users.
const unusedUID = 65_533

// killCalls is how often KillAll calls kill, because under gVisor a process that is forked during a call survives it.
const killCalls = 10

// KillAll sends SIGKILL to every process of the kernels' user at once, and does not wait until they have ended. It makes
// a few system calls in this thread, however many processes there are, so neither a fork bomb nor code that stops
// processes can prevent it. kill(-1) signals the processes of the caller's effective and real user, except the caller.
// During the call the effective user is the kernels' user, and the real user is unusedUID instead of root, because
// root's processes (`guest connect`) must not be killed.
func (u User) KillAll() error {
	return u.as(u.assumeForKill, func() error {
		for range killCalls {
			if err := syscall.Kill(-1, syscall.SIGKILL); err == syscall.ESRCH {
				break
			} else if err != nil {
				return fmt.Errorf("kill the processes of user %d: %w", u.uid, err)
			}
		}
		return nil
	})
}

// as runs f between assume, which changes this thread's ids, and restore. It returns an error if restore fails.
func (u User) as(assume, f func() error) (err error) {
	runtime.LockOSThread()
	defer func() {
		if back := u.restore(); back != nil {
			err = back // the thread stays locked and ends with its goroutine
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := assume(); err != nil {
		return err
	}
	return f()
}

// assumeForKill changes only the user ids, because kill checks no other ids. It does not verify them, to save system
// calls: while a fork bomb runs under gVisor, each system call of the guest can take 10 ms.
func (u User) assumeForKill() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, unusedUID, uintptr(u.uid), unchanged); e != 0 {
		return fmt.Errorf("act as the kernels' user: setresuid: %w", e)
	}
	return nil
}

func (u User) assume() error {
	// The uid comes last, because only uid 0 may change groups.
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("act as the kernels' user: setgroups: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESGID, unchanged, uintptr(u.gid), unchanged); e != 0 {
		return fmt.Errorf("act as the kernels' user: setresgid: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, unchanged, uintptr(u.uid), unchanged); e != 0 {
		return fmt.Errorf("act as the kernels' user: setresuid: %w", e)
	}
	return verify(u.uid, u.gid)
}

func (u User) restore() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, 0, 0, unchanged); e != 0 {
		return fmt.Errorf("act as the guest again: setresuid: %w", e)
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESGID, unchanged, 0, unchanged); e != 0 {
		return fmt.Errorf("act as the guest again: setresgid: %w", e)
	}
	if e := setgroups(u.own); e != 0 {
		return fmt.Errorf("act as the guest again: setgroups: %w", e)
	}
	return verify(0, 0)
}

// verify returns an error unless this thread has these effective ids, and 0 as its real and saved uid.
func verify(uid, gid int) error {
	var r, e, s uint32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_GETRESUID, ptr(&r), ptr(&e), ptr(&s)); errno != 0 || r != 0 || int(e) != uid || s != 0 {
		return fmt.Errorf("this thread's uids are %d, %d, %d (%v), want 0, %d, 0", r, e, s, errno, uid)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_GETRESGID, ptr(&r), ptr(&e), ptr(&s)); errno != 0 || int(e) != gid {
		return fmt.Errorf("this thread's gids are %d, %d, %d (%v), want %d in effect", r, e, s, errno, gid)
	}
	return nil
}

func ptr(p *uint32) uintptr { return uintptr(unsafe.Pointer(p)) }

func setgroups(groups []uint32) syscall.Errno {
	if len(groups) == 0 {
		_, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0)
		return e
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	return e
}
