package docker

import (
	"context"
	"testing"
)

// TestSuspendSucceedsAfterTheRename checks that Suspend returns no error once the container has the name that marks its
// sandbox as suspended: an error means that the sandbox continues to run.
func TestSuspendSucceedsAfterTheRename(t *testing.T) {
	for name, fault := range map[string]func(*fakeAPI){
		"the container can't be killed":        func(f *fakeAPI) { f.fail["kill"] = true },
		"the answer to the rename is lost":     func(f *fakeAPI) { f.loseAnswer["rename"] = true },
		"the answer to the kill call is lost":  func(f *fakeAPI) { f.loseAnswer["kill"] = true },
		"the engine works, for the comparison": func(*fakeAPI) {},
	} {
		t.Run(name, func(t *testing.T) {
			f, e := openFakeAPI(t)
			f.set(func() { fault(f) })
			for range 2 { // the second call finds the sandbox suspended
				if err := e.Suspend(t.Context(), f.id); err != nil {
					t.Errorf("Suspend = %v, want nil", err)
				}
			}
			list, err := e.List(t.Context())
			if err != nil || len(list) != 1 || !list[0].Suspended {
				t.Errorf("List() = %+v, %v, want the sandbox suspended", list, err)
			}
		})
	}
}

// TestFailedRenameLeavesTheSandboxRunning checks that Suspend returns an error, and that the sandbox runs, if the
// container could not be renamed.
func TestFailedRenameLeavesTheSandboxRunning(t *testing.T) {
	f, e := openFakeAPI(t)
	f.set(func() { f.fail["rename"] = true })
	if err := e.Suspend(t.Context(), f.id); err == nil {
		t.Error("Suspend = nil, want an error")
	}
	list, err := e.List(t.Context())
	if err != nil || len(list) != 1 || !list[0].Running {
		t.Errorf("List() = %+v, %v, want the sandbox running", list, err)
	}
	if conn, err := e.Dial(t.Context(), f.id); err != nil {
		t.Errorf("Dial = %v, want a stream", err)
	} else {
		conn.Close()
	}
}

// TestResumeUnfreezes checks that Resume unfreezes a container that is frozen although the engine reports it as
// running. A crash during a checkpoint can leave a container in this state. Resume must work even if the engine can't
// list the container's checkpoints.
func TestResumeUnfreezes(t *testing.T) {
	for name, fault := range map[string]func(*fakeAPI){
		"the interrupted checkpoint is listed": func(f *fakeAPI) { f.checkpoints = []string{"interrupted"} },
		"the checkpoints can't be listed":      func(f *fakeAPI) { f.fail["GET checkpoints"] = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // Resume waits for answerTimeout
			f, e := openFakeAPI(t)
			f.set(func() { f.frozen = true; fault(f) })
			if err := e.Resume(t.Context(), f.id); err != nil {
				t.Errorf("Resume = %v, want nil", err)
			}
			f.set(func() {
				if f.frozen || f.paused {
					t.Errorf("after Resume the container is frozen: %v, paused: %v; want it running", f.frozen, f.paused)
				}
			})
		})
	}
}

// TestResumeOfARunningSandboxDoesNotPauseIt checks that Resume does not pause a running sandbox, even if Resume is
// cancelled or can't list the checkpoints.
func TestResumeOfARunningSandboxDoesNotPauseIt(t *testing.T) {
	f, e := openFakeAPI(t)
	f.set(func() { f.fail["GET checkpoints"], f.fail["pause"], f.fail["unpause"] = true, true, true })
	if err := e.Resume(t.Context(), f.id); err != nil {
		t.Errorf("Resume = %v, want nil", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.set(func() { f.fail["pause"] = false })
	if err := e.unfreeze(ctx, fakeContainer); err == nil {
		t.Error("unfreeze with a cancelled context = nil, want an error")
	}
	f.set(func() {
		if f.paused {
			t.Error("a cancelled call has paused the container")
		}
	})
}
