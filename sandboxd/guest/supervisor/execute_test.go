//go:build linux

package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestExecutions(t *testing.T) {
	t.Parallel()
	b := start(t)

	t.Run("variables persist", func(t *testing.T) {
		b.t = t
		want(t, b.python("x = 20"), sandbox.ExecSucceeded)
		if e := b.python("print('hello')\nx + 1"); result(e) != "21" || text(e.Events) != "hello\n" || e.KernelEpoch != 1 {
			t.Errorf("result = %q, text = %q, epoch %d, want 21, hello and 1", result(e), text(e.Events), e.KernelEpoch)
		}
	})
	t.Run("an exception is reported with its name", func(t *testing.T) {
		b.t = t
		e := b.python("1/0")
		want(t, e, sandbox.ExecFailed)
		if e.Error == nil || e.Error.Name != "ZeroDivisionError" {
			t.Errorf("error = %+v, want a ZeroDivisionError", e.Error)
		}
	})
	t.Run("the same id runs once", func(t *testing.T) {
		b.t = t
		id := sandbox.NewExecutionID()
		b.python("n = 0")
		for range 3 {
			e, err := b.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: "n += 1; n", Language: sandbox.Python, WaitSeconds: 60})
			if err != nil || e.State != sandbox.ExecSucceeded {
				t.Fatalf("Execute() = %+v, %v, want succeeded", e, err)
			}
		}
		if got := result(b.python("n")); got != "1" {
			t.Errorf("n = %s, want 1", got)
		}
	})
	t.Run("queued executions run in order", func(t *testing.T) {
		b.t = t
		b.python("order = []")
		var ids []sandbox.ExecutionID
		for i := range 20 {
			id := sandbox.NewExecutionID()
			if _, err := b.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: fmt.Sprintf("order.append(%d)", i), Language: sandbox.Python}); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		for _, id := range ids {
			want(t, b.look(id, 60), sandbox.ExecSucceeded)
		}
		if got := result(b.python("order == list(range(20))")); got != "True" {
			t.Errorf("order == list(range(20)) is %s, want True", got)
		}
	})
	t.Run("a full queue rejects executions", func(t *testing.T) {
		b.t = t
		first := b.begin("import time\nprint('on')\ntime.sleep(600)", 600)
		var busy error
		for range 101 {
			if _, err := b.Execute(t.Context(), sandbox.NewExecutionID(), sandbox.ExecuteRequest{Code: "pass", Language: sandbox.Python}); err != nil {
				busy = err
			}
		}
		if sandbox.KindOf(busy) != sandbox.Busy {
			t.Errorf("error of the execution beyond the limit = %v, want busy", busy)
		}
		status, err := b.Status(t.Context())
		if err != nil || len(status.Executions) != 101 {
			t.Errorf("%d executions in the status, want 101 (%v)", len(status.Executions), err)
		}
		last := status.Executions[len(status.Executions)-1].ID
		e, err := b.Interrupt(t.Context(), last)
		if err != nil || e.State != sandbox.ExecInterrupted || !e.StartTime.IsZero() {
			t.Errorf("Interrupt(queued) = %+v, %v, want interrupted without a start time", e, err)
		}
		if e, err = b.Interrupt(t.Context(), first); err != nil || e.State != sandbox.ExecInterrupted {
			t.Errorf("Interrupt(running) = %+v, %v, want interrupted", e, err)
		}
		want(t, b.python("1"), sandbox.ExecSucceeded)
	})
	t.Run("languages run side by side", func(t *testing.T) {
		b.t = t
		b.requireNode()
		id := b.begin(flags+"print('on', flush=True)\nwait_for('go')", 600)
		e := b.run(sandbox.ExecuteRequest{Code: "1 + 2", Language: sandbox.JavaScript})
		if python := b.look(id, 0).State; result(e) != "3" || python != sandbox.ExecRunning {
			t.Errorf("JavaScript = %+v while Python is %s, want the result 3 while it is running", e, python)
		}
		b.setFlag("go")
		want(t, b.look(id, 60), sandbox.ExecSucceeded)
	})
	t.Run("an unknown execution is not found", func(t *testing.T) {
		_, err := b.Execution(t.Context(), sandbox.NewExecutionID(), 0, sandbox.Window{})
		if sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("error = %v, want not found", err)
		}
	})
	t.Run("output of a thread belongs to the execution that runs when it prints", func(t *testing.T) {
		b.t = t
		want(t, b.python(flags+"import threading\ndef late():\n    wait_for('print'); print('late'); set_flag('printed')\nthreading.Thread(target=late).start()"), sandbox.ExecSucceeded)
		e := b.python("set_flag('print'); wait_for('printed'); _ = os.write(1, b'raw\\n')")
		lines := strings.Split(text(e.Events), "\n") // raw output and messages may come in either order
		if slices.Sort(lines); !slices.Equal(lines, []string{"", "late", "raw"}) || e.Interlude != nil {
			t.Errorf("text = %q, interlude = %+v, want the lines late and raw, and no interlude", text(e.Events), e.Interlude)
		}
	})
	t.Run("output between executions is counted", func(t *testing.T) {
		b.t = t
		before, err := b.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want(t, b.python("import subprocess; p = subprocess.Popen('while [ ! -e /tmp/echo ]; do sleep .01; done; echo late', shell=True)"), sandbox.ExecSucceeded)
		b.setFlag("echo")
		b.waitFor("five bytes of late output", func() bool {
			s, err := b.Status(t.Context())
			return err == nil && s.DroppedLate == before.DroppedLate+int64(len("late\n"))
		})
	})
	t.Run("the status contains the usage", func(t *testing.T) {
		s, err := b.Status(t.Context())
		if err != nil || s.BuildID != "0123456789ab" || s.Usage.Processes < 1 || s.Usage.MemoryBytes < 1<<20 || s.Usage.CPUSeconds <= 0 || len(s.Kernels) == 0 || s.Kernels[0].Version == "" {
			t.Errorf("Status() = %+v, %v, want the build id, the usage and a kernel with its version", s, err)
		}
	})
}

func TestOldestExecutionsAreRemoved(t *testing.T) {
	t.Parallel()
	b := start(t)
	first := sandbox.NewExecutionID()
	if _, err := b.Execute(t.Context(), first, sandbox.ExecuteRequest{Code: "1", Language: sandbox.Python, WaitSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			for range 101 {
				b.python("1")
			}
		})
	}
	group.Wait()
	if _, err := b.Execution(t.Context(), first, 0, sandbox.Window{}); sandbox.KindOf(err) != sandbox.NotFound {
		t.Errorf("error for the first execution after 1010 more = %v, want not found", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := start(t)
	id := b.begin("import time\nfor i in range(5):\n    print(i, flush=True); time.sleep(.1)\ni", 30)
	var live []sandbox.Event
	collect := func(to *[]sandbox.Event) func(sandbox.Event) error {
		return func(e sandbox.Event) error { *to = append(*to, e); return nil }
	}
	if err := b.Events(t.Context(), id, 1, collect(&live)); err != nil {
		t.Fatal(err)
	}
	if text(live) != "0\n1\n2\n3\n4\n" {
		t.Errorf("text of the live events = %q, want the numbers 0 to 4", text(live))
	}
	if last := live[len(live)-1]; last.State != sandbox.ExecSucceeded {
		t.Errorf("last event = %+v, want the final state", last)
	}
	for i, e := range live {
		if e.Seq != int64(i+1) {
			t.Errorf("the number of event %d is %d, want %d", i+1, e.Seq, i+1)
		}
	}
	var again []sandbox.Event
	if err := b.Events(t.Context(), id, 3, collect(&again)); err != nil || len(again) != len(live)-2 || again[0].Seq != 3 {
		t.Errorf("Events() from number 3 sent %d events and returned %v, want %d and nil", len(again), err, len(live)-2)
	}
	var none []sandbox.Event
	if err := b.Events(t.Context(), id, int64(len(live)+1), collect(&none)); err != nil || none != nil {
		t.Errorf("Events() from beyond the end sent %v and returned %v, want nothing and nil", none, err)
	}
	enough := errors.New("enough")
	if err := b.Events(t.Context(), id, 1, func(sandbox.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Events() = %v, want the error of its callback", err)
	}
	// A client that disconnects while it reads events does not affect the execution.
	ctx, cancel := context.WithCancel(t.Context())
	id = b.begin("print('on')\nimport os, time\nwhile not os.path.exists('left'): time.sleep(.01)", 60)
	err := b.Events(ctx, id, 1, func(e sandbox.Event) error {
		if e.Text != "" {
			cancel()
		}
		return nil
	})
	if err == nil {
		t.Error("Events() with a cancelled context = nil, want an error")
	}
	if _, err := b.WriteFile(t.Context(), "left", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	want(t, b.look(id, 60), sandbox.ExecSucceeded)
}

func TestAnImageWithoutInterpreters(t *testing.T) {
	t.Parallel()
	b := start(t, with("PATH", "/nowhere:relative"))
	for language, name := range map[sandbox.Language]string{sandbox.JavaScript: "node", sandbox.Python: "python3"} {
		e := b.run(sandbox.ExecuteRequest{Code: "1", Language: language})
		want(t, e, sandbox.ExecKernelDied)
		if e.Death.Cause != sandbox.DiedStart || !strings.Contains(e.Reason, "this image has no "+name) || e.KernelEpoch != 0 {
			t.Errorf("death = %+v, reason = %q, epoch %d, want a failed start that names %s", e.Death, e.Reason, e.KernelEpoch, name)
		}
	}
}

// requireNode skips the test if the sandbox has no node. If DORMOUSE_TEST_REQUIRE (a comma-separated list) contains
// node, the test fails instead.
func (b *testGuest) requireNode() {
	b.t.Helper()
	switch {
	case hasProgram("node"):
	case slices.Contains(strings.Split(os.Getenv("DORMOUSE_TEST_REQUIRE"), ","), "node"):
		b.t.Fatal("DORMOUSE_TEST_REQUIRE contains node, but it is in no folder that the sandbox sees")
	default:
		b.t.Skip("NOT TESTED: there is no node in a folder that the sandbox sees")
	}
}

func hasProgram(name string) bool {
	for _, dir := range []string{"/usr/bin/", "/bin/", "/usr/local/bin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return true
		}
	}
	return false
}
