//go:build linux

package supervisor_test

import (
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func (b *testGuest) javascript(code string) sandbox.Execution {
	b.t.Helper()
	return b.run(sandbox.ExecuteRequest{Code: code, Language: sandbox.JavaScript})
}

// TestOutputBetweenExecutionsIsReportedByTheNext checks that text that is printed while no execution runs appears in
// the Interlude of the next execution, and not in any execution's output. The code prints after the test has set the flag
// print, and sets the flag printed afterwards.
func TestOutputBetweenExecutionsIsReportedByTheNext(t *testing.T) {
	t.Parallel()
	b := start(t)
	want(t, b.python(flags+"import subprocess, threading\ndef run(f): threading.Thread(target=f).start()"), sandbox.ExecSucceeded)
	if hasProgram("node") {
		want(t, b.javascript("const fs = require('fs'), later = (f) => { const timer = setInterval(() => { if (fs.existsSync('/tmp/print')) { clearInterval(timer); f() } }, 2) }; 0"), sandbox.ExecSucceeded)
	}
	printLate := func() {
		t.Helper()
		b.setFlag("print")
		b.waitForFlag("printed")
		b.clearFlags("print", "printed")
	}
	tests := []struct {
		name, code, next string
		run              func(string) sandbox.Execution
		late             string
	}{
		{name: "a thread", run: b.python, code: "def late():\n    wait_for('print'); print('tick'); set_flag('printed')\nrun(late); print('own')", next: "print('next')", late: "tick\n"},
		{name: "a child process", run: b.python, code: "subprocess.Popen('while [ ! -e /tmp/print ]; do sleep .01; done; echo tock; echo tick; touch /tmp/printed', shell=True); print('own')", next: "print('next')", late: "tock\ntick\n"},
		{name: "a thread's error", run: b.python, code: "def late():\n    wait_for('print'); 1/0\nfailing = threading.Thread(target=late); failing.start()\ndef after():\n    failing.join(); set_flag('printed')\nrun(after); print('own')", next: "print('next')", late: "ZeroDivisionError: division by zero\n"},
		{name: "a timer", run: b.javascript, code: "later(() => { console.log('tick'); fs.writeFileSync('/tmp/printed', '') }); console.log('own')", next: "console.log('next')", late: "tick\n"},
		{name: "a late error", run: b.javascript, code: "later(() => { setTimeout(() => fs.writeFileSync('/tmp/printed', ''), 1); throw new TypeError('late') }); console.log('own')", next: "console.log('next')", late: "TypeError: late"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			if strings.Contains(test.next, "console") {
				b.requireNode()
			}
			if e := test.run(test.code); text(e.Events) != "own\n" || e.Interlude != nil {
				t.Fatalf("the first execution printed %q, and its interlude is %+v, want own and none", text(e.Events), e.Interlude)
			}
			printLate()
			e := test.run(test.next)
			if text(e.Events) != "next\n" || e.Interlude == nil || !strings.Contains(e.Interlude.LateText, test.late) || e.Interlude.LateBytes != int64(len(e.Interlude.LateText)) {
				t.Errorf("the next execution printed %q, and its interlude is %+v, want next and the late text %q", text(e.Events), e.Interlude, test.late)
			}
			if e = test.run(test.next); e.Interlude != nil {
				t.Errorf("the interlude of the execution after that = %+v, want none", e.Interlude)
			}
		})
	}
	t.Run("only the end of long text is kept", func(t *testing.T) {
		b.t = t
		want(t, b.python("def late():\n    wait_for('print'); print('é' * 500_000 + 'end'); set_flag('printed')\nrun(late)"), sandbox.ExecSucceeded)
		printLate()
		if i := b.python("1").Interlude; i == nil || i.LateBytes != 1_000_004 || !strings.HasSuffix(i.LateText, "éend\n") || len(i.LateText) > sandbox.MaxLateText {
			t.Errorf("interlude = %+v, want 1,000,004 late bytes and at most %d of them, with the end", i, sandbox.MaxLateText)
		}
	})
	t.Run("text is reported once if executions begin while it is printed", func(t *testing.T) {
		b.t = t
		want(t, b.python("def late():\n    wait_for('print'); print('tick'); set_flag('printed')\nrun(late)"), sandbox.ExecSucceeded)
		b.setFlag("print")
		var all strings.Builder // the interludes' texts and the output of all executions
		for last := false; ; {
			e := b.python("os.path.exists('/tmp/printed')")
			if e.Interlude != nil {
				all.WriteString(e.Interlude.LateText)
			}
			all.WriteString(text(e.Events))
			if last {
				break
			}
			last = result(e) == "True"
		}
		if got := all.String(); got != "tick\n" {
			t.Errorf("the executions and their interludes have the text %q, want tick once", got)
		}
		b.clearFlags("print", "printed")
	})
	t.Run("a death is reported with the kernel's last output", func(t *testing.T) {
		b.t = t
		want(t, b.python("def late():\n    wait_for('print'); os.write(1, b'bye'); os._exit(9)\nrun(late)"), sandbox.ExecSucceeded)
		b.setFlag("print")
		b.waitFor("stopped kernel", func() bool {
			s, err := b.Status(t.Context())
			return err == nil && s.Kernels[0].State == sandbox.KernelStopped
		})
		e := b.python("1")
		if i := e.Interlude; i == nil || i.LateText != "bye" || i.Death == nil || i.Death.ExitCode != 9 || e.KernelEpoch != 2 {
			t.Errorf("epoch %d, interlude %+v, want epoch 2, the text bye and a death with exit code 9", e.KernelEpoch, i)
		}
		if e = b.python("1"); e.Interlude != nil {
			t.Errorf("the interlude of the execution after that = %+v, want none", e.Interlude)
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
			flag := func(name string) string { return string(test.lang) + "-" + name }
			want(t, b.run(sandbox.ExecuteRequest{Code: test.start, Language: test.lang}), sandbox.ExecSucceeded)
			b.setFlag(flag("stop"))
			b.waitForFlag(flag("stopped"))
			id, seconds := sandbox.NewExecutionID(), 600
			if _, err := b.Execute(t.Context(), id, sandbox.ExecuteRequest{Code: test.next, Language: test.lang, TimeoutSeconds: &seconds}); err != nil {
				t.Fatal(err)
			}
			b.waitFor("running execution", func() bool { return b.look(id, 0).State == sandbox.ExecRunning })
			b.setFlag(flag("print"))
			e := b.look(id, 60)
			late := ""
			if e.Interlude != nil {
				late = e.Interlude.LateText
			}
			if e.State != sandbox.ExecSucceeded || text(e.Events) != "own\n" || !strings.Contains(late, "late\n") || !strings.Contains(late, "late too\n") {
				t.Errorf("state = %s, text = %q, late text = %q, want succeeded, %q, and both lines of the helper as late text", e.State, text(e.Events), late, "own\n")
			}
		})
	}
}
