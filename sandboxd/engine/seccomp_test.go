package engine

import (
	"strings"
	"testing"
)

// TestSeccompNamesEachCallOnce checks that allowed and refused name each system call once, because otherwise one rule
// could override another unnoticed. It also checks that they name none of the dangerous calls listed below.
func TestSeccompNamesEachCallOnce(t *testing.T) {
	seen := map[string]bool{}
	check := func(names string, once bool) {
		for _, name := range strings.Fields(names) {
			if seen[name] && once {
				t.Errorf("the list contains %s twice", name)
			}
			seen[name] = true
		}
	}
	for _, g := range allowed {
		check(g.names, !strings.HasPrefix(g.names, "socket")) // the socket calls have one rule for each kind of socket
	}
	for _, r := range refused {
		check(r.names, true)
	}
	for _, name := range strings.Fields(`ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_send_signal
		rt_sigqueueinfo rt_tgsigqueueinfo keyctl add_key request_key bpf perf_event_open userfaultfd
		io_uring_setup io_uring_enter io_uring_register mount umount2 pivot_root chroot unshare setns open_tree move_mount
		fsopen fsconfig fsmount fspick mount_setattr shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv
		mq_open mq_timedsend personality name_to_handle_at open_by_handle_at kexec_load init_module finit_module
		reboot swapon syslog quotactl acct settimeofday clock_settime sethostname modify_ldt iopl ioperm`) {
		if seen[name] {
			t.Errorf("%s is allowed, want it refused", name)
		}
	}
}
