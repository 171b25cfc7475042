//go:build linux

package gvisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
)

// TestDaemonAtAMoment is not a test: it is the daemon process that TestNothingOutlivesAKilledDaemon starts and kills.
func TestDaemonAtAMoment(t *testing.T) {
	text := os.Getenv("DORMOUSE_TEST_ORPHANS")
	if text == "" {
		t.Skip("only as a part of TestNothingOutlivesAKilledDaemon")
	}
	// The arguments are the folder, the image, and the moment at which to print "now". The test then kills this
	// process.
	var args [3]string
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		t.Fatal(err)
	}
	dir, image, moment := args[0], args[1], args[2]
	// The guest ends the sandbox a minute after the TTL is reached. With this TTL, that is 10 s after the sandbox was
	// created.
	gvisor.SetMakingLife(-50 * time.Second)
	e, err := gvisor.New(t.Context(), gvisor.Config{Dir: dir, Bundle: bundle.Bundle{}, Runsc: runsc(t), WithoutCgroups: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	now := func() { fmt.Println("now") }
	switch moment {
	case "a snapshot's sandbox gets ready":
		err = e.Snapshot(t.Context(), spec(image), func(context.Context) error { now(); select {} })
	case "a snapshot is written":
		err = e.Snapshot(t.Context(), spec(image), func(context.Context) error { now(); return nil })
	case "a sandbox was started from a snapshot":
		if err = e.Snapshot(t.Context(), spec(image), func(context.Context) error { return nil }); err == nil {
			_, err = e.Start(t.Context(), spec(image))
		}
		now()
	case "a pooled sandbox is made", "a pooled sandbox waits":
		s := spec(image)
		if err := e.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		suspendAndResume(t, e, s.ID)
		if err := e.Remove(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		if moment == "a pooled sandbox waits" {
			ready(t, e)
		} else {
			awaitPooled(t, dir)
		}
		now()
	}
	if err != nil {
		t.Fatal(err)
	}
	select {}
}

// awaitPooled waits until runsc is making a pooled sandbox.
func awaitPooled(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "runsc makes a pooled sandbox", func() bool {
		names := pooledSandboxes(t, dir)
		return len(names) > 0 && len(runscOf(names[0])) > 0
	})
}

// TestNothingOutlivesAKilledDaemon checks that when a daemon is killed and not started again, all sandboxes that it has
// created in advance end soon.
func TestNothingOutlivesAKilledDaemon(t *testing.T) {
	image := anyImage(t)
	for _, moment := range []string{"a snapshot's sandbox gets ready", "a snapshot is written", "a sandbox was started from a snapshot", "a pooled sandbox is made", "a pooled sandbox waits"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel() // the subtests wait most of the time
			dir := tempDir(t)
			daemon := exec.Command(os.Args[0], "-test.run=^TestDaemonAtAMoment$")
			args, _ := json.Marshal([3]string{dir, image, moment}) // can't fail: the arguments are strings
			daemon.Env = append(os.Environ(), "DORMOUSE_TEST_ORPHANS="+string(args))
			out, err := daemon.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			said := make([]byte, 4096)
			n, _ := out.Read(said)
			running := len(runscOf(dir + "/"))
			if err := daemon.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			daemon.Wait()
			if !strings.Contains(string(said[:n]), "now") {
				t.Fatalf("the daemon printed %q, want now", said[:n])
			}
			if running == 0 {
				t.Error("nothing ran when the daemon was killed")
			}
			killed := time.Now()
			for deadline := killed.Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
				left := runscOf(dir + "/")
				if len(left) == 0 {
					break
				}
				if time.Now().After(deadline) {
					for _, pid := range left {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
					t.Fatalf("%d processes, %v, run %v after the daemon was killed", len(left), left, time.Since(killed))
				}
			}
			t.Logf("nothing ran after %v", time.Since(killed))
			if err := open(t, dir, bundle.Bundle{}).Close(); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "spares", "*")); len(left) > 0 {
				t.Errorf("the pooled sandboxes %q are left after the next start, want none", left)
			}
		})
	}
}
