//go:build linux

package supervisor_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// These tests run the real guest as PID 1 of its own process and mount namespaces, with the mounts and capabilities
// that an engine gives it, and connect to its socket. They need root on Linux.

const insideVariable = "DORMOUSE_TEST_INSIDE"

func TestMain(m *testing.M) {
	if root := os.Getenv(insideVariable); root != "" {
		if err := becomeGuest(root, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "become the guest:", err)
			os.Exit(1)
		}
	}
	// Parallel tests mostly wait, so more of them than a small machine has CPUs can run at once. The flag -parallel of go test
	// overrides this.
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// testGuest is a running guest.
type testGuest struct {
	*guest.Client
	t      *testing.T
	cmd    *exec.Cmd
	exited chan error
	root   string // path of the guest's root folder for the test process
	uid    int
}

type option func(flags map[string]string)

func with(name, value string) option { return func(flags map[string]string) { flags[name] = value } }

var (
	built struct {
		once sync.Once
		dir  string
		err  error
	}
	lastUID   = 310_000
	lastUIDMu sync.Mutex
)

// start runs a guest until the test ends.
func start(t *testing.T, options ...option) *testGuest {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: starting the guest in its own namespaces needs root")
	}
	built.once.Do(func() { built.dir, built.err = buildBundle() })
	if built.err != nil {
		t.Fatalf("build the guest: %v", built.err)
	}
	lastUIDMu.Lock()
	lastUID++
	uid := lastUID
	lastUIDMu.Unlock()
	values := map[string]string{
		"uid":       strconv.Itoa(uid),
		"memory":    strconv.Itoa(1 << 30),
		"processes": "100",
		"workspace": strconv.Itoa(64 << 20),
		"expires":   strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10),
		"language":  "python",
	}
	for _, o := range options {
		o(values)
	}
	args := []string{"serve"}
	path := os.Getenv("PATH")
	for name, value := range values {
		if name == "PATH" {
			path = value
			continue
		}
		args = append(args, "--"+name+"="+value)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+built.dir, "PATH="+path)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("NOT TESTED: a process can't have its own namespaces here: %v", err)
	}
	b := &testGuest{t: t, cmd: cmd, exited: make(chan error, 1), uid: uid, root: fmt.Sprintf("/proc/%d/root", cmd.Process.Pid)}
	go func() { b.exited <- cmd.Wait(); close(b.exited) }()
	b.Client = guest.NewClient(func(context.Context) (net.Conn, error) { return connectTo(b.root + guest.SocketPath) })
	t.Cleanup(func() {
		b.Close()
		cmd.Process.Kill()
		<-b.exited
		if strings.Contains(log.String(), "DATA RACE") {
			t.Error("the race detector found a data race in the guest")
		}
		if t.Failed() && log.Len() > 0 {
			t.Logf("the guest wrote:\n%s", log.String())
		}
	})
	b.waitFor("answer to a status request", func() bool {
		_, err := b.Status(t.Context())
		return err == nil
	})
	return b
}

// waitFor waits until condition returns true. It polls, because the condition depends on other processes. The test fails
// if the guest ends first or a minute has passed.
func (b *testGuest) waitFor(what string, condition func() bool) {
	b.t.Helper()
	timeout := time.After(time.Minute)
	for !condition() {
		select {
		case err := <-b.exited:
			b.t.Fatalf("the guest ended (%v) while the test waited for: %s", err, what)
		case <-timeout:
			b.t.Fatalf("a minute has passed without: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// waitForExit waits until the guest has ended. The test fails if a minute has passed.
func (b *testGuest) waitForExit() {
	b.t.Helper()
	select {
	case <-b.exited:
	case <-time.After(time.Minute):
		b.t.Fatal("a minute after its expiry, the guest still runs, want it to end")
	}
}

// waitForFlag waits until code in the sandbox has created the file /tmp/name.
func (b *testGuest) waitForFlag(name string) {
	b.t.Helper()
	b.waitFor("file /tmp/"+name+" in the sandbox", func() bool {
		_, err := os.Stat(filepath.Join(b.root, "tmp", name))
		return err == nil
	})
}

// setFlag creates the file /tmp/name in the sandbox, for which code waits.
func (b *testGuest) setFlag(name string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, "tmp", name), nil, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// clearFlags removes the files in /tmp, so that their names can be used again.
func (b *testGuest) clearFlags(names ...string) {
	b.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(b.root, "tmp", name)); err != nil {
			b.t.Fatal(err)
		}
	}
}

// flags is Python code that defines the functions wait_for and set_flag, which wait for and create a file in /tmp.
const flags = `
import os, time
def wait_for(name):
    while not os.path.exists('/tmp/' + name): time.sleep(.002)
def set_flag(name): open('/tmp/' + name, 'w').close()
`

// connectTo does what `guest connect` does: it passes one end of a socket pair to the guest as stdin and stdout. It
// returns the other end.
func connectTo(socket string) (net.Conn, error) {
	control, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	defer syscall.Close(pair[0])
	ours := os.NewFile(uintptr(pair[1]), "ours")
	defer ours.Close()
	if _, _, err := control.WriteMsgUnix([]byte{0}, syscall.UnixRights(pair[0], pair[0]), nil); err != nil {
		return nil, errors.Join(err, control.Close())
	}
	go func() { // the guest ends the connection when it has closed the descriptors
		_, _ = control.Read(make([]byte, 1))
		control.Close()
	}()
	return net.FileConn(ours)
}

// buildBundle creates the folder that engines mount at /opt/dormouse.
func buildBundle() (string, error) {
	dir, err := os.MkdirTemp("", "dormouse-guest-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	build := exec.Command("go", append(append([]string{"build"}, buildFlags...), "-o", filepath.Join(dir, "guest"), "github.com/dormouse-sandbox/dormouse/sandboxd/guest/cmd/guest")...)
	build.Env = append(os.Environ(), buildEnv)
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	files, err := fs.Sub(kernels.Files, ".")
	if err != nil {
		return dir, err
	}
	if err := os.WriteFile(filepath.Join(dir, "build-id"), []byte("0123456789ab\n"), 0o644); err != nil {
		return dir, err
	}
	return dir, os.CopyFS(filepath.Join(dir, "kernels"), files)
}

// becomeGuest turns this process, which is PID 1 of new namespaces, into the guest. The guest gets three capabilities
// and its own root folder, with the host's programs and the mounts of a sandbox.
func becomeGuest(bundle string, args []string) error {
	const root = "/tmp"
	uid := "0"
	size := "64m"
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--uid="); ok {
			uid = v
		}
		if v, ok := strings.CutPrefix(a, "--workspace="); ok {
			size = v
		}
	}
	steps := []struct{ source, target, kind, data string }{
		{"tmpfs", "", "tmpfs", "mode=0755"},
		{"proc", "/proc", "proc", ""},
		{"tmpfs", "/workspace", "tmpfs", "mode=0755,uid=" + uid + ",gid=" + uid + ",nr_inodes=40000,size=" + size},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777,size=256m"},
		{"tmpfs", "/run/dormouse", "tmpfs", "mode=0700,size=160m"},
		{"tmpfs", "/dev/shm", "tmpfs", "mode=1777,size=64m"},
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	// The bundle is opened here, because it is below /tmp, which a mount will cover.
	from, err := os.Open(bundle)
	if err != nil {
		return err
	}
	for i, s := range steps {
		if err := os.MkdirAll(root+s.target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(s.source, root+s.target, s.kind, syscall.MS_NOSUID, s.data); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
		if i > 0 {
			continue
		}
		binds := map[string]string{fmt.Sprintf("/proc/self/fd/%d", from.Fd()): "/opt/dormouse"}
		for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev"} {
			binds[dir] = dir
		}
		for source, target := range binds {
			if link, err := os.Readlink(source); err == nil && source == target {
				if err := os.Symlink(link, root+target); err != nil {
					return err
				}
				continue
			}
			if _, err := os.Stat(source); err != nil {
				continue
			}
			if err := os.MkdirAll(root+target, 0o755); err != nil {
				return err
			}
			if err := syscall.Mount(source, root+target, "", syscall.MS_BIND, ""); err != nil {
				return fmt.Errorf("bind %s: %w", target, err)
			}
		}
	}
	if err := syscall.Chroot(root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	runtime.LockOSThread()
	const boundingDrop, setUID, setGID, kill = 24, 7, 6, 5
	for c := range uintptr(64) {
		if c != setUID && c != setGID && c != kill {
			syscall.RawSyscall(syscall.SYS_PRCTL, boundingDrop, c, 0)
		}
	}
	return syscall.Exec("/opt/dormouse/guest", append([]string{"guest"}, args...), []string{"PATH=" + os.Getenv("PATH")})
}

// python runs Python code to its end, and returns the execution with all its events.
func (b *testGuest) python(code string) sandbox.Execution {
	b.t.Helper()
	return b.run(sandbox.ExecuteRequest{Code: code, Language: sandbox.Python})
}

func (b *testGuest) run(req sandbox.ExecuteRequest) sandbox.Execution {
	b.t.Helper()
	if req.WaitSeconds == 0 {
		req.WaitSeconds = 60
	}
	e, err := b.Execute(b.t.Context(), sandbox.NewExecutionID(), req)
	if err != nil {
		b.t.Fatalf("Execute(%q): %v", req.Code, err)
	}
	return e
}

// begin starts an execution, and returns its id when the execution has printed something or has ended.
func (b *testGuest) begin(code string, timeout int) sandbox.ExecutionID {
	b.t.Helper()
	id := sandbox.NewExecutionID()
	req := sandbox.ExecuteRequest{Code: code, Language: sandbox.Python, TimeoutSeconds: &timeout}
	if _, err := b.Execute(b.t.Context(), id, req); err != nil {
		b.t.Fatalf("Execute(%q): %v", code, err)
	}
	printed := errors.New("the code has printed")
	err := b.Events(b.t.Context(), id, 1, func(e sandbox.Event) error {
		if e.Text != "" {
			return printed
		}
		return nil
	})
	if err != nil && !errors.Is(err, printed) {
		b.t.Fatalf("Events(%s): %v", id, err)
	}
	return id
}

func (b *testGuest) look(id sandbox.ExecutionID, wait float64) sandbox.Execution {
	b.t.Helper()
	e, err := b.Execution(b.t.Context(), id, wait, sandbox.Window{})
	if err != nil {
		b.t.Fatalf("Execution: %v", err)
	}
	return e
}

// text joins the printed text of the events.
func text(events []sandbox.Event) string {
	var s strings.Builder
	for _, e := range events {
		s.WriteString(e.Text)
	}
	return s.String()
}

func result(e sandbox.Execution) string {
	for _, ev := range e.Events {
		if ev.Type == sandbox.EventResult {
			return ev.Data["text/plain"]
		}
	}
	return ""
}

// want fails the test unless the execution is in this state.
func want(t *testing.T, e sandbox.Execution, state sandbox.ExecutionState) {
	t.Helper()
	if e.State != state {
		t.Fatalf("state = %s (%s, %+v, %+v), want %s; text %q", e.State, e.Reason, e.Error, e.Death, state, text(e.Events))
	}
}
