//go:build linux

package e2e_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/rootfs"
)

// ordinaryUser is a user without root rights. The user has a user id but no entry in /etc/passwd, because Dormouse needs no
// such entry.
type ordinaryUser struct {
	t   *testing.T
	dir string // the user's home folder, which contains all programs of the test
}

const ordinaryUserUID = 61234

func newOrdinaryUser(t *testing.T) ordinaryUser {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an engine, so it is left out with -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user; without root the other tests already run as an ordinary user")
	}
	if here := engineHere("gvisor"); !here.OK || !here.Image {
		skipMissing(t, "gvisor", here.Why)
	}
	dir, err := os.MkdirTemp("", "dm-user-")
	if err != nil {
		t.Fatal(err)
	}
	s := ordinaryUser{t, dir}
	t.Cleanup(func() {
		for _, line := range s.processes() {
			t.Errorf("a process of the user still runs: %s", line)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for from, to := range map[string]string{binary: "dormouse", "bin/runsc": "runsc", os.Args[0]: "e2e.test"} {
		if out, err := exec.Command("cp", from, filepath.Join(dir, to)).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v: %s", from, err, out)
		}
	}
	if output, err := s.run(t, ".", nil, filepath.Join(dir, "dormouse"), "doctor", "--engine-only", "--engine=gvisor", "--without-cgroups"); err != nil {
		skipMissing(t, "gvisor", "the gvisor engine does not work for an ordinary user: "+output)
	}
	return s
}

// run runs a program as the user and returns its output. The parameter in is the working directory, relative to the
// checkout. The environment consists of HOME, PATH, DOCKER_HOST and the given variables.
func (s ordinaryUser) run(t *testing.T, in string, env []string, program string, arg ...string) (output string, err error) {
	t.Helper()
	unpacked, err := rootfs.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("e2e/testdata/as-user")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{script, strconv.Itoa(ordinaryUserUID), s.dir, unpacked, program}, arg...)...)
	cmd.Dir = in
	// DOCKER_HOST is set so that the user's programs do not find root's Docker engine.
	cmd.Env = append([]string{"PATH=" + s.dir + ":" + os.Getenv("PATH"), "DOCKER_HOST=unix:///nowhere"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// processes returns the command lines of the user's processes.
func (s ordinaryUser) processes() (lines []string) {
	found, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range found {
		info, err := os.Stat(dir)
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != ordinaryUserUID || !alive(pid) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		lines = append(lines, strings.ReplaceAll(string(line), "\x00", " "))
	}
	return lines
}

// TestWithoutRoot checks that the gvisor engine works for users without root and without Docker. It runs the engine's
// conformance suite and some end-to-end tests as an ordinary user. No systemd runs for this user, so the user has no cgroups,
// and the test leaves out the suite's tests of limits that need cgroups.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	s := newOrdinaryUser(t)
	env := []string{"DORMOUSE_TEST_REQUIRE=gvisor,runsc", "DORMOUSE_WITHOUT_CGROUPS=1",
		"DORMOUSE_TEST_BINARY=" + filepath.Join(s.dir, "dormouse"), "DORMOUSE_TEST_PROBE=" + filepath.Join(s.dir, "probe")}
	tests := func(t *testing.T, in, program, which, but string) {
		t.Helper()
		output, err := s.run(t, in, env, filepath.Join(s.dir, program), "-test.v", "-test.run="+which, "-test.skip="+but)
		if err != nil {
			t.Errorf("the tests failed as an ordinary user: %v\n%s", err, output)
		}
		// go test passes if no test has one of the names.
		for name := range strings.SplitSeq(strings.Trim(which, "^()$"), "|") {
			if !strings.Contains(output, "--- PASS: "+name) {
				t.Errorf("no test %s passed as an ordinary user:\n%s", name, output)
			}
		}
	}
	t.Run("the conformance suite of the engine", func(t *testing.T) {
		for _, arg := range [][]string{
			{"build", "-o", filepath.Join(s.dir, "probe"), "./sandboxd/engine/enginetest/probe"},
			{"test", "-c", "-o", filepath.Join(s.dir, "gvisor.test"), "./sandboxd/engine/gvisor"},
			{"test", "-c", "-o", filepath.Join(s.dir, "rootfs.test"), "./sandboxd/engine/gvisor/rootfs"},
		} {
			build := exec.Command("go", arg...)
			if arg[0] == "build" { // the probe runs in sandboxes, whose image may have another C library
				build.Env = append(os.Environ(), "CGO_ENABLED=0")
			}
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("go %v: %v\n%s", arg, err, out)
			}
		}
		tests(t, "sandboxd/engine/gvisor", "gvisor.test", "^(TestSuite|TestSandboxesOutliveTheDaemon)$", "^TestSuite$/^(Programs|Limits)$/^(memory|works.*)$")
		tests(t, "sandboxd/engine/gvisor/rootfs", "rootfs.test", "^TestUnpack", "")
	})
	t.Run("end-to-end tests", func(t *testing.T) {
		tests(t, ".", "e2e.test", "^(TestMainJob|TestDaemonKilled|TestSuspendAndFork|TestReboot)$", "")
	})
	t.Run("doctor reports what is missing and how to fix it", func(t *testing.T) {
		dormouse := filepath.Join(s.dir, "dormouse")
		if output, err := s.run(t, ".", nil, dormouse, "doctor", "--engine", "gvisor"); err == nil ||
			!strings.Contains(output, "can't limit sandboxes") || !strings.Contains(output, "--without-cgroups") {
			t.Errorf("without cgroups doctor fails with %v, want an error that names --without-cgroups:\n%s", err, output)
		}
		output, err := s.run(t, ".", env, "unshare", "--user", "--map-current-user", "--keep-caps", "--",
			"sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces; exec "+dormouse+" doctor --engine gvisor")
		if err == nil || !strings.Contains(output, "sudo sysctl -w user.max_user_namespaces=") {
			t.Errorf("without user namespaces doctor fails with %v, want an error with the sysctl command:\n%s", err, output)
		}
	})
	t.Run("the next command works with the flag that the first command's error names", func(t *testing.T) {
		// The script selects the gvisor engine itself. It clears the DOCKER_HOST that the method run sets, because most users
		// have none.
		output, err := s.run(t, ".", nil, "sh", "-c", `export DORMOUSE_HOME="$HOME/first" DOCKER_HOST= DORMOUSE_ENGINE=gvisor
			"$HOME/dormouse" exec -e 'print(6 * 7)'
			echo "first: $?"
			"$HOME/dormouse" exec --without-cgroups -e 'print(6 * 7)'
			echo "second: $?"
			pid=$(cat "$DORMOUSE_HOME/sandboxd.pid") && kill "$pid" && while kill -0 "$pid"; do sleep 0.05; done 2>&-`)
		if !strings.Contains(output, "--without-cgroups") || !strings.Contains(output, "first: 125") || !strings.Contains(output, "42\nsecond: 0") {
			t.Errorf("got (%v), want an error with status 125 and then 42:\n%s", err, output)
		}
	})
	t.Run("all files belong to the user", func(t *testing.T) {
		err := filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil && info.Sys().(*syscall.Stat_t).Uid != ordinaryUserUID {
				t.Errorf("%s belongs to another user", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
