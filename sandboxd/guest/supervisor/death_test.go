//go:build linux

package supervisor_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestKernelDeaths(t *testing.T) {
	t.Parallel()
	b := start(t)
	tests := []struct {
		name  string
		code  string
		cause sandbox.DeathCause
		exit  int
		sig   string
	}{
		{name: "os._exit is an exit", code: "import os; os.write(1, b'last words\\n'); os._exit(3)", cause: sandbox.DiedExit, exit: 3},
		{name: "kill -9 of itself is a signal", code: "import os; os.kill(os.getpid(), 9)", cause: sandbox.DiedSignal, sig: "SIGKILL"},
		{name: "a crash is a signal", code: "import ctypes; ctypes.string_at(0)", cause: sandbox.DiedSignal, sig: "SIGSEGV"},
		{name: "abort is a signal", code: "import os; os.abort()", cause: sandbox.DiedSignal, sig: "SIGABRT"},
		{name: "a forged done message does not hide an exit", code: `import os; os.write(4, b'{"type":"done","id":"exec_aaaaaaaaaaaaaaaaaaaaaaaaaa","status":"ok"}\nrubbish\n'); os._exit(4)`, cause: sandbox.DiedExit, exit: 4},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.t = t
			e := b.python(test.code)
			want(t, e, sandbox.ExecKernelDied)
			if d := e.Death; d.Cause != test.cause || d.ExitCode != test.exit || d.Signal != test.sig || d.Time.IsZero() || e.Reason == "" {
				t.Errorf("death = %+v, reason = %q, want cause %s, exit code %d, signal %q, a time and a reason", e.Death, e.Reason, test.cause, test.exit, test.sig)
			}
			if e.KernelEpoch != i+1 {
				t.Errorf("epoch = %d, want %d", e.KernelEpoch, i+1)
			}
			if i == 0 && text(e.Events) != "last words\n" {
				t.Errorf("text = %q, want the last words", text(e.Events))
			}
		})
	}
	t.Run("a crash report contains only the user's frames", func(t *testing.T) {
		b.t = t
		for name, code := range map[string]string{
			"a cell":     "import ctypes\ndef f(): ctypes.string_at(0)\nf()",
			"an await":   "import ctypes\nasync def f(): ctypes.string_at(0)\nawait f()",
			"a repr":     "import ctypes\nclass R:\n    def __repr__(self): return ctypes.string_at(0)\nR()",
			"the end of": "import ctypes, os\nos.write(2, b'Fatal Python error: is my text\\n')\nctypes.string_at(0)",
		} {
			e := b.python(code)
			want(t, e, sandbox.ExecKernelDied)
			got := text(e.Events)
			if !strings.Contains(got, "Fatal Python error: Segmentation fault") || !strings.Contains(got, `  File "<cell 1>", line `) ||
				strings.Contains(got, "dormouse") || strings.Contains(got, "kernel.py") || strings.Contains(got, "asyncio") {
				t.Errorf("%s: the report is\n%s\nwant only the user's frames", name, got)
			}
		}
		e := b.python("import os\nos.write(2, b'Fatal Python error: is my text\\n')\nprint('next')")
		if want(t, e, sandbox.ExecSucceeded); text(e.Events) != "next\nFatal Python error: is my text\n" {
			t.Errorf("text = %q, want both lines, unchanged", text(e.Events))
		}
	})
	t.Run("processes that a dead kernel leaves behind are killed", func(t *testing.T) {
		b.t = t
		want(t, b.python("import os, subprocess; subprocess.Popen(['setsid', 'sleep', '600']); subprocess.Popen(['sleep', '600']); os._exit(0)"), sandbox.ExecKernelDied)
		b.python("1")
		if s, err := b.Status(t.Context()); err != nil || s.Usage.Processes != 1 {
			t.Errorf("%d processes are left, want the kernel alone (%v)", s.Usage.Processes, err)
		}
	})
	t.Run("the status shows a death between executions", func(t *testing.T) {
		b.t = t
		want(t, b.python(flags+"import threading\ndef die():\n    wait_for('die'); os._exit(9)\nthreading.Thread(target=die).start()"), sandbox.ExecSucceeded)
		b.setFlag("die")
		b.waitFor("stopped kernel", func() bool {
			s, err := b.Status(t.Context())
			return err == nil && s.Kernels[0].State == sandbox.KernelStopped
		})
		if s, err := b.Status(t.Context()); err != nil || s.Kernels[0].LastDeath.ExitCode != 9 {
			t.Errorf("kernels = %+v, %v, want the last death with exit code 9", s.Kernels, err)
		}
		want(t, b.python("1"), sandbox.ExecSucceeded)
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	b := start(t, with("memory", strconv.Itoa(1<<30)), with("workspace", strconv.Itoa(256<<20)))
	b.python("kept = 42")
	t.Run("an allocation that is too large raises a MemoryError", func(t *testing.T) {
		b.t = t
		e := b.python("b = bytearray(2 << 30)")
		want(t, e, sandbox.ExecFailed)
		if e.Error.Name != "MemoryError" || result(b.python("kept")) != "42" {
			t.Errorf("error = %+v, want a MemoryError and kept variables", e.Error)
		}
	})
	t.Run("many processes that fill the memory kill the kernel", func(t *testing.T) {
		b.t = t
		e := b.python(`
import os, time
for _ in range(8):
    if os.fork() == 0:
        hoard = []
        for _ in range(25):
            hoard.append(b'x' * (10 << 20)); time.sleep(.01)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
`)
		want(t, e, sandbox.ExecKernelDied)
		if e.Death.Cause != sandbox.DiedOutOfMemory {
			t.Errorf("death = %+v, want cause %s", e.Death, sandbox.DiedOutOfMemory)
		}
		want(t, b.python("1"), sandbox.ExecSucceeded)
	})
}

func TestKernelsCannotReachTheGuest(t *testing.T) {
	t.Parallel()
	b := start(t)
	e := b.python(`
import os, signal, socket
seen = []
def attempt(name, f):
    try: f(); seen.append(name)
    except (PermissionError, ProcessLookupError): pass
    except OSError as e:
        if e.errno not in (1, 3, 13): seen.append(name + ' ' + str(e))
for n in range(1, 65): attempt('kill', lambda: os.kill(1, n))
attempt('socket', lambda: socket.socket(socket.AF_UNIX).connect('/run/dormouse/guest.sock'))
attempt('listing', lambda: os.listdir('/run/dormouse'))
for n in ('mem', 'environ', 'maps', 'fd/0', 'root', 'cwd', 'exe', 'auxv'):
    attempt(n, lambda: os.open('/proc/1/' + n, os.O_RDONLY))
for t in os.listdir('/proc/1/task'): attempt('task', lambda: os.open('/proc/1/task/' + t + '/mem', os.O_RDWR))
attempt('setuid', lambda: os.setuid(0))
status = open('/proc/self/status').read()
caps = [l.split()[1] for l in status.splitlines() if l.startswith(('CapEff', 'CapPrm', 'CapInh', 'CapAmb'))]
print(seen, set(caps), os.getuid(), os.getgid(), os.getgroups())
`)
	want(t, e, sandbox.ExecSucceeded)
	uid := strconv.Itoa(b.uid)
	if got, wanted := text(e.Events), "[] {'0000000000000000'} "+uid+" "+uid+" []\n"; got != wanted {
		t.Errorf("the successful attempts and the kernel's rights are %s, want %s", got, wanted)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	b := start(t, with("expires", strconv.FormatInt(time.Now().Add(-50*time.Second).Unix(), 10)))
	if err := b.SetExpiry(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	want(t, b.python("1"), sandbox.ExecSucceeded)
	if err := b.SetExpiry(t.Context(), time.Now().Add(-62*time.Second)); err != nil {
		t.Fatal(err)
	}
	b.waitForExit()
}
