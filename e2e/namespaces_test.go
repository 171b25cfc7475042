//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// namespaces is a Python program that tries to make each kind of namespace, with unshare in a forked process and with clone. If
// clone succeeds, the new process exits at once.
const namespaces = `
import ctypes, errno, os, platform, signal
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (56, 272, 435), "aarch64": (220, 97, 435)}
CLONE, UNSHARE, CLONE3 = numbers[platform.machine()]
kinds = {"user": 0x10000000, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "pid": 0x20000000, "net": 0x40000000}

def call(number, *arg):
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arg))
    return got, "made it" if got >= 0 else errno.errorcode[ctypes.get_errno()]

def forked(number, *arg):
    r, w = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(w, call(number, *arg)[1].encode())
        os._exit(0)
    os.close(w)
    os.waitpid(pid, 0)
    with os.fdopen(r) as f:
        return f.read()

def cloned(flags):
    pid, answer = call(CLONE, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return answer

answers = {}
for kind, flag in kinds.items():
    answers["unshare " + kind] = forked(UNSHARE, flag)
    answers["clone " + kind] = cloned(flag)
    answers["clone user and " + kind] = cloned(flag | kinds["user"])
clone3 = call(CLONE3, 0, 0)[1]
plain = cloned(0)
`

// summary is a Python program that runs after the program namespaces and prints the distinct results of its calls.
const summary = `
print("answers:", " and ".join(sorted(set(answers.values()))), end=".")
`

// honest is a Python program that starts processes and threads in the common ways. All of them must work in a sandbox.
const honest = `
import multiprocessing, subprocess, sys, threading
started = []
threads = [threading.Thread(target=started.append, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
pooled = []
for method in ("fork", "spawn", "forkserver"):
    with multiprocessing.get_context(method).Pool(2) as pool:
        pooled += pool.map(abs, [-1, -2])
shell = subprocess.run("echo hello | tr a-z A-Z", shell=True, capture_output=True, text=True).stdout.strip()
nested = subprocess.run([sys.executable, "-c", "import threading; t = threading.Thread(target=print, args=('nested',)); t.start(); t.join()"], capture_output=True, text=True).stdout.strip()
print(len(started), pooled, shell, nested)
`

// TestCodeCannotMakeNamespaces checks that no code in a sandbox can make a namespace, on any platform. In a new user namespace
// the code would have every capability.
func TestCodeCannotMakeNamespaces(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newHome(t, p.env...).connect(t)
			id := s.create(args{})
			t.Run("every call that makes a namespace fails with EPERM", func(t *testing.T) {
				s := s.with(t)
				s.run(id, namespaces)
				s.run(id, "print({call: answer for call, answer in answers.items() if answer != 'EPERM'}, len(answers))", "{} 21")
			})
			t.Run("clone3 fails with ENOSYS, so that libc falls back to clone", func(t *testing.T) {
				s.with(t).run(id, "print(clone3, plain)", "ENOSYS made it")
			})
			t.Run("a program that code starts cannot make namespaces", func(t *testing.T) {
				s.with(t).run(id, fmt.Sprintf("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', %q], capture_output=True, text=True).stdout)", namespaces+summary), "answers: EPERM.")
			})
			t.Run("a program that a JavaScript kernel starts cannot make namespaces", func(t *testing.T) {
				s.with(t).exec(args{"sandbox_id": id, "language": "javascript", "code": fmt.Sprintf(
					"require('child_process').spawnSync('python3', ['-c', %q], {encoding: 'utf8'}).stdout", namespaces+summary)}, "answers: EPERM.")
			})
			t.Run("a kernel that was restored in a fork cannot make namespaces", func(t *testing.T) {
				s := s.with(t)
				r := s.call("create_sandbox", args{"fork_of": id})
				if r.IsError {
					// A Docker engine with runc, or without experimental features, can't fork.
					if p.runtime == "runsc" && !strings.Contains(r.Text, "this Docker engine can't") {
						t.Errorf("create_sandbox: %s", r.Text)
					}
					return
				}
				fork := r.Structured["id"].(string)
				// The variable clone3 exists in the fork, so its kernel was restored and not started anew.
				s.run(fork, "print(clone3)", "kernel_epoch 1", "ENOSYS")
				s.run(fork, namespaces+summary, "answers: EPERM.")
			})
			t.Run("processes and threads work", func(t *testing.T) {
				s.with(t).run(id, honest, "8 [1, 2, 1, 2, 1, 2] HELLO nested")
			})
		})
	}
}
