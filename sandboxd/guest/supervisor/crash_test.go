//go:build linux

package supervisor

import (
	"strings"
	"testing"
)

const (
	reportHead = "Fatal Python error: Segmentation fault\n\nStack (most recent call first):\n"
	own        = `  File "/opt/dormouse/kernels/python/dormouse_kernel/`
)

// FuzzCrashReport passes a text to two crashReports in pieces of any size. One crashReport belongs to a kernel that
// lives: it must lose nothing of the text. The other belongs to a kernel that dies: it must add no line to the text.
func FuzzCrashReport(f *testing.F) {
	f.Add("a\n"+reportHead+"  File \"<cell 1>\", line 1 in f\n"+own+"loop.py\", line 1 in main\n\n", 7)
	f.Add("Fatal Python error: x\ny", 3)
	f.Fuzz(func(t *testing.T, text string, size int) {
		var alive, dies crashReport
		var passed strings.Builder
		for rest := text; rest != ""; {
			n := max(1, min(size, len(rest)))
			p := rest[:n]
			rest = rest[n:]
			passed.Write(alive.pass([]byte(p)))
			dies.pass([]byte(p))
		}
		if got := passed.String() + string(alive.rest()); got != text {
			t.Errorf("pass() and rest() = %q, want %q", got, text)
		}
		report := dies.report()
		for line := range strings.Lines(string(report)) {
			if !strings.Contains(text, line) {
				t.Errorf("report() contains the line %q, which is not in %q", line, text)
			}
		}
	})
}

func TestCrashReports(t *testing.T) {
	library := "  File \"/usr/lib/python3.13/ctypes/__init__.py\", line 519 in string_at\n"
	ipython := "  File \"/usr/lib/python3/dist-packages/IPython/core/formatters.py\", line 770 in __call__\n  File \"/usr/lib/python3/dist-packages/decorator.py\", line 2 in fun\n"
	loop := own + "cell.py\", line 77 in _await\n  File \"/usr/lib/python3.13/asyncio/events.py\", line 80 in _run\n" + own +
		"loop.py\", line 89 in _run\n  File \"/opt/dormouse/kernels/python/kernel.py\", line 16 in <module>\n"
	cell := "  File \"<cell 1>\", line 5 in f\n  File \"<cell 1>\", line 6 in <module>\n"
	repr := "  File \"<cell 1>\", line 3 in __repr__\n"
	thread := "  File \"<cell 1>\", line 2 in work\n"
	tests := []struct {
		name, raw     string
		atOnce, atEnd string // text that is passed on while the kernel lives, and text that is passed on after its death
	}{
		{name: "a report contains only the user's frames", raw: reportHead + library + cell + loop + "\nExtension modules: a._b (total: 1)\n", atEnd: reportHead + library + cell},
		{name: "a __repr__ that IPython calls is a user's frame", raw: reportHead + library + repr + ipython + cell + loop, atEnd: reportHead + library + repr + cell},
		{name: "text before a report is passed on at once", raw: "before\n" + reportHead + cell + loop, atOnce: "before\n", atEnd: reportHead + cell},
		{name: "each thread has its own frames", raw: "Fatal Python error: Aborted\n\nThread 0x00007f01 (most recent call first):\n" + thread +
			"  File \"/usr/lib/python3.13/threading.py\", line 1 in _bootstrap\n\nCurrent thread 0x00007f02 (most recent call first):\n" + cell + loop,
			atEnd: "Fatal Python error: Aborted\n\nThread 0x00007f01 (most recent call first):\n" + thread + "Current thread 0x00007f02 (most recent call first):\n" + cell},
		{name: "an internal error of Python is a report", raw: "Fatal Python error: _PyX: bad\nPython runtime state: initialized\n\nCurrent thread 0x00007f02 (most recent call first):\n" + cell + loop,
			atEnd: "Fatal Python error: _PyX: bad\nPython runtime state: initialized\n\nCurrent thread 0x00007f02 (most recent call first):\n" + cell},
		{name: "text that only begins like a report is passed on", raw: reportHead + loop + "and more\n", atOnce: reportHead + loop + "and more\n"},
		{name: "a line that contains the beginning of a report is passed on", raw: "it said: Fatal Python error: Aborted\n", atOnce: "it said: Fatal Python error: Aborted\n"},
		{name: "a report above the limit is passed on", raw: reportHead + strings.Repeat(cell, maxReport/len(cell)), atOnce: reportHead + strings.Repeat(cell, maxReport/len(cell))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var pieces crashReport
			passed := string(pieces.pass([]byte(test.raw)))
			if got := string(pieces.report()); passed != test.atOnce || got != test.atEnd {
				t.Errorf("pass() = %q, want %q; report() = %q, want %q", passed, test.atOnce, got, test.atEnd)
			}
		})
	}
	t.Run("the text of a kernel that lives is passed on", func(t *testing.T) {
		var c crashReport
		if got := c.pass([]byte("Fatal Python error: ")); len(got) > 0 {
			t.Errorf("pass() = %q, want nothing yet", got)
		}
		if got := string(c.pass([]byte("Abor"))) + string(c.rest()); got != "Fatal Python error: Abor" {
			t.Errorf("pass() and rest() = %q, want the text", got)
		}
		if got := string(c.pass([]byte("next"))); got != "next" {
			t.Errorf("pass() after rest() = %q, want next", got)
		}
	})
}
