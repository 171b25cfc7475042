package directexec

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	savedContainer = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherContainer = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

// init makes the test program a fake of containerd's shim if its arguments are `-shim FOLDER,FOLDER… -namespace moby
// -id ID`. The fake starts a child as the container's first process and prints the child's pid. If it gets several
// folders, it changes its working directory from one to the next until it is killed.
func init() {
	if len(os.Args) < 3 || os.Args[1] != "-shim" {
		return
	}
	child := exec.Command("/bin/sleep", "600")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Println(child.Process.Pid)
	folders := strings.Split(os.Args[2], ",")
	for len(folders) > 1 {
		for _, folder := range folders {
			if err := os.Chdir(folder); err != nil {
				panic(err)
			}
		}
	}
	select {}
}

// fakeShim starts a fake shim (see init) in the first folder. The parameter user is the uid that the shim runs as.
// fakeShim returns the shim and the pid of its container's first process.
func fakeShim(t *testing.T, user uint32, folders ...string) (shim *exec.Cmd, container int) {
	t.Helper()
	// Use /proc/self/exe, because another user can't enter the folder of the test program.
	shim = exec.Command("/proc/self/exe", "-shim", strings.Join(folders, ","), "-namespace", "moby", "-id", savedContainer)
	shim.Dir = folders[0]
	shim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if user != 0 {
		shim.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user}
	}
	out, err := shim.StdoutPipe()
	if err == nil {
		err = shim.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = shim.Process.Kill()
		_ = shim.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		container, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		t.Fatal(err)
	}
	return shim, container
}

// bundleWith creates a folder with the file options.json, in which containerd records the runtime of a container. The
// file names program as the runtime.
func bundleWith(t *testing.T, program string) string {
	t.Helper()
	// Don't use t.TempDir, because another user can't enter that folder.
	dir, err := os.MkdirTemp("/var/tmp", "dormouse-test-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.WriteFile(filepath.Join(dir, "options.json"), fmt.Appendf(nil, `{"binary_name":%q,"root":"/run/runc"}`, program), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root calls a container's runtime, and the tests do not run as root")
	}
}

// TestRuntimeOfAnotherUserIsRejected checks that Find never returns a program that another user could have chosen,
// because root runs the program.
func TestRuntimeOfAnotherUserIsRejected(t *testing.T) {
	needRoot(t)
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const nobody = 65534
	for _, tt := range []struct {
		name    string
		user    uint32
		prepare func(dir, options string)
		found   bool
	}{
		{"containerd's shim", 0, func(dir, options string) {}, true},
		{"a process of another user in a folder of root's", nobody, func(dir, options string) {}, false},
		{"a link for options.json", 0, func(dir, options string) {
			must(os.Rename(options, filepath.Join(dir, "x")), os.Symlink("x", options))
		}, false},
		{"options.json of another user", 0, func(dir, options string) { must(os.Chown(options, nobody, nobody)) }, false},
		{"options.json that others can write", 0, func(dir, options string) { must(os.Chmod(options, 0o622)) }, false},
		{"a pipe for options.json", 0, func(dir, options string) { must(os.Remove(options), syscall.Mkfifo(options, 0o600)) }, false},
		{"a folder of another user", 0, func(dir, options string) { must(os.Chown(dir, nobody, nobody)) }, false},
		{"a folder that others can write", 0, func(dir, options string) { must(os.Chmod(dir, 0o733)) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := bundleWith(t, "/usr/bin/runc")
			tt.prepare(dir, filepath.Join(dir, "options.json"))
			_, container := fakeShim(t, tt.user, dir)
			r, ok := Find(savedContainer, container)
			if ok != tt.found {
				t.Fatalf("Find() = %+v, %v, want found: %v", r, ok, tt.found)
			}
			if want := (Runtime{"/usr/bin/runc", "/run/runc/moby"}); ok && r != want {
				t.Errorf("Find() = %+v, want %+v", r, want)
			}
			if r, ok := Find(otherContainer, container); ok {
				t.Errorf("Find() of another container = %+v, want none", r)
			}
		})
	}
}

// TestSwappedFolderIsRejected checks that a process can't make root run a program of another user by changing its
// working directory during the checks of Find.
func TestSwappedFolderIsRejected(t *testing.T) {
	needRoot(t)
	good, bad := bundleWith(t, "/usr/bin/runc"), bundleWith(t, "/tmp/evil")
	if err := os.Chown(bad, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	_, container := fakeShim(t, 0, good, bad)
	for range 2000 {
		if r, ok := Find(savedContainer, container); ok && r.Program != "/usr/bin/runc" {
			t.Fatalf("Find() = %+v, want only the program in root's folder", r)
		}
	}
}
