//go:build linux

package supervisor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func (b *testGuest) javascript(code string) sandbox.Execution {
	b.t.Helper()
	return b.run(sandbox.ExecuteRequest{Code: code, Language: sandbox.JavaScript})
}

// TestOutputBetweenExecutionsIsReportedByTheNext checks that text that is printed while no execution runs appears in
// the Interlude of the next execution, and not in any execution's output.
func TestOutputBetweenExecutionsIsReportedByTheNext(t *testing.T) {
	t.Parallel()
	b := start(t)
	tests := []struct {
		name, code, next string
		run              func(string) sandbox.Execution
		late             string
	}{
		{name: "a thread", run: b.python, code: "import threading, time\ndef late():\n    time.sleep(.1); print('tick')\nthreading.Thread(target=late).start(); print('own')", next: "print('next')", late: "tick\n"},
		{name: "a child process", run: b.python, code: "import subprocess\nsubprocess.Popen('sleep .1; echo tock; echo tick', shell=True); print('own')", next: "print('next')", late: "tock\ntick\n"},
		{name: "a thread's error", run: b.python, code: "def late():\n    time.sleep(.1); 1/0\nthreading.Thread(target=late).start(); print('own')", next: "print('next')", late: "ZeroDivisionError: division by zero\n"},
		{name: "a timer", run: b.javascript, code: "setTimeout(() => console.log('tick'), 100); console.log('own')", next: "console.log('next')", late: "tick\n"},
		{name: "a late error", run: b.javascript, code: "setTimeout(() => { throw new TypeError('late') }, 100); console.log('own')", next: "console.log('next')", late: "TypeError: late"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			if strings.Contains(test.next, "console") {
				b.requireNode()
			}
			if e := test.run(test.code); text(e.Events) != "own\n" || e.Interlude != nil {
				t.Fatalf("the first printed %q, with %+v", text(e.Events), e.Interlude)
			}
			time.Sleep(400 * time.Millisecond)
			e := test.run(test.next)
			if text(e.Events) != "next\n" || e.Interlude == nil || !strings.Contains(e.Interlude.LateText, test.late) || e.Interlude.LateBytes != int64(len(e.Interlude.LateText)) {
				t.Errorf("the next printed %q, with %+v, want %q late", text(e.Events), e.Interlude, test.late)
			}
			if e = test.run(test.next); e.Interlude != nil {
				t.Errorf("and the one after it has %+v", e.Interlude)
			}
		})
	}
	t.Run("of much the end is kept", func(t *testing.T) {
		b.t = t
		b.python("def late():\n    time.sleep(.1); print('é' * 500_000 + 'end')\nthreading.Thread(target=late).start()")
		time.Sleep(400 * time.Millisecond)
		if i := b.python("1").Interlude; i == nil || i.LateBytes != 1_000_004 || !strings.HasSuffix(i.LateText, "éend\n") || len(i.LateText) > sandbox.MaxLateText {
			t.Errorf("got %+v", i)
		}
	})
	t.Run("it comes with the next execution however soon that is", func(t *testing.T) {
		b.t = t
		b.python("def late():\n    time.sleep(.1); print('tick')\nt = threading.Thread(target=late); t.start()")
		time.Sleep(100 * time.Millisecond)
		for range 100 {
			if i := b.python("1").Interlude; i != nil {
				if i.LateText != "tick\n" {
					t.Errorf("got %+v", i)
				}
				return
			}
		}
		if e := b.python("print('never')"); !strings.Contains(text(e.Events), "tick") { // the thread may have printed tick during one of the executions
			t.Log("it was printed during an execution")
		}
	})
	t.Run("a death is told, with its last words", func(t *testing.T) {
		b.t = t
		b.python("def late():\n    time.sleep(.1); os.write(1, b'bye'); os._exit(9)\nimport os; threading.Thread(target=late).start()")
		time.Sleep(400 * time.Millisecond)
		e := b.python("1")
		if i := e.Interlude; i == nil || i.LateText != "bye" || i.Death == nil || i.Death.ExitCode != 9 || e.KernelEpoch != 2 {
			t.Errorf("epoch %d, %+v", e.KernelEpoch, i)
		}
		if e = b.python("1"); e.Interlude != nil {
			t.Errorf("and once more: %+v", e.Interlude)
		}
	})
}

// TestRawOutputBeforeAnExecutionBegins checks that text that is printed after the guest has sent an execution to the
// kernel, but before the kernel has begun the execution, does not belong to the execution. A helper process stops the
// kernel while it prints the text, so that the order of events does not depend on timing.
func TestRawOutputBeforeAnExecutionBegins(t *testing.T) {
	t.Parallel()
	b := start(t)
	const helper = `
wait_for() { while [ ! -e /tmp/$1 ]; do sleep .01; done; }
wait_for $0-stop; kill -STOP $PPID; touch /tmp/$0-stopped
wait_for $0-print; echo late; echo late too >&2; kill -CONT $PPID`
	for _, test := range []struct {
		lang        sandbox.Language
		start, next string
	}{
		{lang: sandbox.Python, start: "import subprocess\n_ = subprocess.Popen(['sh', '-c', '''" + helper + "''', 'python'])", next: "import os; _ = os.write(1, b'own\\n')"},
		{lang: sandbox.JavaScript, start: "var helper = require('child_process').spawn('sh', ['-c', `" + strings.ReplaceAll(helper, "$", "\\$") + "`, 'javascript'], { stdio: 'inherit' }); 0", next: "require('fs').writeSync(1, 'own\\n')"},
	} {
		t.Run(string(test.lang), func(t *testing.T) {
			b.t = t
			if test.lang == sandbox.JavaScript {
				b.requireNode()
			}
			touch := func(name string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(b.root, "tmp", string(test.lang)+"-"+name), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			until := func(what string, done func() bool) {
				t.Helper()
				for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("within a minute there was no %s", what)
					}
				}
			}
			want(t, b.run(sandbox.ExecuteRequest{Code: test.start, Language: test.lang}), sandbox.ExecSucceeded)
			touch("stop")
			until("stopped kernel", func() bool {
				_, err := os.Stat(filepath.Join(b.root, "tmp", string(test.lang)+"-stopped"))
				return err == nil
			})
			id, seconds := sandbox.NewExecutionID(), 600
			if _, err := b.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: test.next, Language: test.lang, TimeoutSeconds: &seconds}); err != nil {
				t.Fatal(err)
			}
			until("running execution", func() bool { return b.look(id, 0).State == sandbox.ExecRunning })
			touch("print")
			e := b.look(id, 45)
			late := ""
			if e.Interlude != nil {
				late = e.Interlude.LateText
			}
			if e.State != sandbox.ExecSucceeded || text(e.Events) != "own\n" || !strings.Contains(late, "late\n") || !strings.Contains(late, "late too\n") {
				t.Errorf("state %s, printed %q, late %q; want succeeded, %q, and late both lines of the helper", e.State, text(e.Events), late, "own\n")
			}
		})
	}
}
