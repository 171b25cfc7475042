//go:build linux

package gvisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/enginetest"
	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestDaemonThatIsKilled is not a test: it is the daemon process that TestSandboxesOutliveTheDaemon starts and kills.
func TestDaemonThatIsKilled(t *testing.T) {
	text := os.Getenv("DORMOUSE_TEST_DAEMON")
	if text == "" {
		t.Skip("only as a part of TestSandboxesOutliveTheDaemon")
	}
	var args [2]string // the arguments are the folder and the image
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		t.Fatal(err)
	}
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: args[0], Bundle: bundle.Bundle{}, Runsc: runsc(t), WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	s := spec(args[1])
	if err := e.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	python(t, e, s.ID, "x = 42")
	fmt.Println("created")
	select {}
}

func TestSandboxesOutliveTheDaemon(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	daemon := exec.Command(os.Args[0], "-test.run=^TestDaemonThatIsKilled$")
	args, _ := json.Marshal([2]string{dir, image}) // can't fail: the arguments are strings
	daemon.Env = append(os.Environ(), "DORMOUSE_TEST_DAEMON="+string(args))
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4096)
	n, _ := out.Read(said)
	// Kill the whole process group of the daemon, as a terminal or a service manager does.
	if err := syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	daemon.Wait()
	if !strings.Contains(string(said[:n]), "created") {
		t.Fatalf("the daemon printed %q, want created", said[:n])
	}

	e := open(t, dir, bundle.Bundle{})
	list, err := e.List(t.Context())
	if err != nil || len(list) != 1 || !list[0].Running {
		t.Fatalf("List() = %+v, %v, want one running sandbox", list, err)
	}
	removeLater(t, e, list[0].ID)
	if got := python(t, e, list[0].ID, "print(x)"); got != "42" {
		t.Errorf("x = %s, want 42", got)
	}
	if err := e.Remove(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	wantNothingRuns(t, e, list[0].ID)
}

func TestRemoveLeavesNothing(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	for name, before := range map[string]func(t *testing.T, id sandbox.ID){
		"a running sandbox": func(*testing.T, sandbox.ID) {},
		"a sandbox whose gVisor was killed": func(t *testing.T, id sandbox.ID) {
			kill(t, e, id)
			if list, err := e.List(t.Context()); err != nil || len(list) != 1 || list[0].Running || list[0].Detail != "exited" {
				t.Errorf("List() = %+v, %v, want one sandbox that has exited", list, err)
			}
		},
		"a sandbox without state of runsc": func(t *testing.T, _ sandbox.ID) {
			if err := os.RemoveAll(filepath.Join(dir, "runsc")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "runsc"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a sandbox whose start was interrupted": func(t *testing.T, id sandbox.ID) {
			if err := os.Remove(filepath.Join(dir, "sandboxes", string(id), "process.json")); err != nil {
				t.Fatal(err)
			}
		},
		"a suspended sandbox": func(t *testing.T, id sandbox.ID) {
			if err := e.Suspend(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(image)
			create(t, e, s)
			before(t, s.ID)
			began := time.Now()
			if err := e.Remove(t.Context(), s.ID); err != nil {
				t.Errorf("Remove: %v", err)
			}
			t.Logf("remove: %v", time.Since(began))
			wantNothingRuns(t, e, s.ID)
			for _, pattern := range []string{"sandboxes/*", "sandboxes/.*", "runsc/*"} {
				if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
					t.Errorf("%q exist after Remove, want none", left)
				}
			}
		})
	}
}

// TestRemoveWhereRunIsReadOnly checks that Remove succeeds in a service with a read-only /run, as with systemd's
// ProtectSystem=strict. runsc can create a socket in /run, which Remove removes. In this test the socket is not there,
// and Remove must not fail.
func TestRemoveWhereRunIsReadOnly(t *testing.T) {
	anyImage(t)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind /run /run && mount -o remount,bind,ro /run && exec "$@"`, "sh",
		os.Args[0], "-test.v", "-test.run=^TestRemoveLeavesNothing$/^a_suspended_sandbox$")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestRemoveLeavesNothing/a_suspended_sandbox") {
		t.Errorf("%v, want that the test of a suspended sandbox passes: %s", err, out)
	}
}

// TestKernelsReadTheirFilesUnderAnyUmask checks that kernels can read all the files that they need if the daemon has a
// restrictive umask, as services and root shells can have.
func TestKernelsReadTheirFilesUnderAnyUmask(t *testing.T) {
	anyImage(t)
	cmd := exec.Command("sh", "-c", `umask 077 && exec "$@"`, "sh",
		os.Args[0], "-test.v", "-test.run=^TestSandboxesOutliveTheDaemon$")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestSandboxesOutliveTheDaemon") {
		t.Errorf("%v, want that the test passes: %s", err, out)
	}
}

// kill kills all processes of a sandbox, and returns when they have ended.
func kill(t *testing.T, e *gvisor.Engine, id sandbox.ID) {
	t.Helper()
	eventually(t, "the killed processes of sandbox "+string(id)+" end", func() bool {
		pids, err := e.ProcessesOf(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0
	})
}

// TestAPidOfAnotherBootIsNotTheSandbox checks that the engine does not take another process for a sandbox's process if
// that process has the sandbox's pid after a reboot.
func TestAPidOfAnotherBootIsNotTheSandbox(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	s := spec(image)
	create(t, e, s)
	kill(t, e, s.ID)
	bystander := exec.Command("sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		bystander.Process.Kill()
		bystander.Wait()
	}()
	path := filepath.Join(dir, "sandboxes", string(s.ID), "process.json")
	var p map[string]any
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &p) != nil {
		t.Fatal(err, string(text))
	}
	p["pid"], p["boot"] = bystander.Process.Pid, "another"
	if text, err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 || list[0].Running || !strings.Contains(list[0].Detail, "restarted") {
		t.Errorf("List() = %+v, %v, want one sandbox that does not run, and a Detail that the machine was restarted", list, err)
	}
	if err := e.Remove(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("signal the process that has the sandbox's old pid: %v, want that it still runs", err)
	}
}

// runMemoryHog makes the probe run a program that fills the memory. It returns an error if the answer is incomplete. The
// probe sends the header of the answer when the program starts, and the rest when the program has ended.
func runMemoryHog(client *http.Client) error {
	resp, err := client.Post("http://guest/hog/memory", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// TestOutOfMemoryIsNamed checks that List names the reason if a sandbox was killed because it ran out of memory.
func TestOutOfMemoryIsNamed(t *testing.T) {
	image := anyImage(t)
	e := open(t, tempDir(t), enginetest.Probe(t))
	s := spec(image)
	s.Limits.MemoryBytes = 128 * sandbox.MiB
	create(t, e, s)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx, s.ID) },
	}}
	if err := runMemoryHog(&client); err == nil {
		t.Error("the program that fills the memory ended, want that its sandbox ends first")
	}
	eventually(t, "the sandbox ends", func() bool { return !onlyContainer(t, e).Running })
	if c := onlyContainer(t, e); !strings.Contains(c.Detail, "out of memory") {
		t.Errorf("List() = %+v, want a Detail that it ran out of memory", c)
	}
}
