//go:build linux

package supervisor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestOutput(t *testing.T) {
	t.Parallel()
	b := start(t)

	t.Run("output of subprocesses is in order", func(t *testing.T) {
		b.t = t
		e := b.python("import os\nprint(1)\nos.system('echo 2; echo 3')\nprint(4)\nos.system('echo 5')\nprint(6);")
		if got, want := text(e.Events), "1\n2\n3\n4\n5\n6\n"; got != want {
			t.Errorf("text = %q, want %q", got, want)
		}
	})
	t.Run("a character that is split between two writes arrives whole", func(t *testing.T) {
		b.t = t
		e := b.python(`import subprocess; subprocess.run(['sh', '-c', r"printf '\303'; sleep .1; printf '\244\n\377|'"]);`)
		if got, want := text(e.Events), "ä\n\uFFFD|"; got != want {
			t.Errorf("text = %q, want %q", got, want)
		}
	})
	t.Run("small prints become few events", func(t *testing.T) {
		b.t = t
		e := b.python("import os\nfor i in range(20000): os.write(1, b'x\\n')")
		if n := len(e.Events); text(e.Events) != strings.Repeat("x\n", 20000) || n > 500 {
			t.Errorf("%d events with %d bytes, want at most 500 with 40,000", n, len(text(e.Events)))
		}
	})
	t.Run("a window shows a part and counts the omitted bytes", func(t *testing.T) {
		b.t = t
		e := b.run(sandbox.ExecuteRequest{Code: "print('ä' * 1000)", Language: sandbox.Python, Window: sandbox.Window{Head: 11, Tail: 10}})
		var omitted int64
		for _, ev := range e.Events {
			omitted += ev.Bytes
		}
		if got := text(e.Events); got != strings.Repeat("ä", 9)+"\n" || omitted != 2001-19 || e.NextOffset != 2001 {
			t.Errorf("text = %q, %d bytes omitted, next offset %d, want 9 characters and a line break, 1982 and 2001", got, omitted, e.NextOffset)
		}
	})
	t.Run("each window continues where the previous one ended", func(t *testing.T) {
		b.t = t
		// The code prints the next number after the test has read a window with the number before.
		id := b.begin(flags+"for i in range(10): print(i, flush=True); wait_for(f'read{i}')", 60)
		var all strings.Builder
		var offset int64
		windows := 0
		err := b.Events(t.Context(), id, 1, func(ev sandbox.Event) error {
			if ev.Text == "" && !ev.State.Final() {
				return nil
			}
			e, err := b.Execution(t.Context(), id, 0, sandbox.Window{Offset: offset})
			if err != nil {
				return err
			}
			all.WriteString(text(e.Events))
			offset = e.NextOffset
			b.setFlag(fmt.Sprintf("read%d", windows))
			windows++
			return nil
		})
		if got := all.String(); err != nil || got != "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" || windows < 10 {
			t.Errorf("the text of %d windows is %q, %v, want the numbers 0 to 9 in at least 10 windows", windows, got, err)
		}
	})
	t.Run("of much output, the beginning and the end are stored", func(t *testing.T) {
		b.t = t
		const line = 1 << 16
		lines := manyBytes / line
		began := time.Now()
		e := b.run(sandbox.ExecuteRequest{
			Code:     fmt.Sprintf("import os\nline = b'%%06d' + b'x' * (%d - 7) + b'\\n'\nfor i in range(%d): os.write(1, line %% i)", line, lines),
			Language: sandbox.Python, Window: sandbox.Window{Head: 100, Tail: 100},
		})
		want(t, e, sandbox.ExecSucceeded)
		took := time.Since(began)
		t.Logf("%d MiB in %s, %d MB/s", manyBytes>>20, took, int(float64(manyBytes)/took.Seconds()/1e6))
		var lost int64
		for _, ev := range e.Events {
			if ev.Reason == sandbox.OmittedByLimit {
				lost = ev.Bytes
			}
		}
		got := text(e.Events)
		if e.OutputBytes != manyBytes || lost != manyBytes-sandbox.MaxOutputBytes-sandbox.TailBytes || !strings.HasPrefix(got, "000000xxx") || !strings.HasSuffix(got, "xxx\n") || len(got) != 200 {
			t.Errorf("%d bytes of output, %d lost, text %q, want %d, %d, and 200 bytes from the beginning and the end", e.OutputBytes, lost, got, manyBytes, manyBytes-sandbox.MaxOutputBytes-sandbox.TailBytes)
		}
		s, err := b.Status(t.Context())
		if err != nil || s.Usage.MemoryBytes > 300<<20 {
			t.Errorf("%d MiB in use, %v, want at most 300", s.Usage.MemoryBytes>>20, err)
		}
		var kept int64
		err = b.Events(t.Context(), e.ID, 1, func(ev sandbox.Event) error { kept += int64(len(ev.Text)); return nil })
		if err != nil || kept != sandbox.MaxOutputBytes+sandbox.TailBytes {
			t.Errorf("the events contain %d bytes, %v, want %d", kept, err, sandbox.MaxOutputBytes+sandbox.TailBytes)
		}
	})
	t.Run("too many pictures are left out with a note", func(t *testing.T) {
		b.t = t
		id := b.begin("print('on')\nclass P:\n    def _repr_html_(self): return 'p' * (7 << 20)\nfor _ in range(6): display(P())", 60)
		var values, notes int
		err := b.Events(t.Context(), id, 1, func(e sandbox.Event) error {
			if e.Type == sandbox.EventDisplay && strings.HasPrefix(e.Data["text/plain"], "[left out") {
				notes++
			} else if e.Type == sandbox.EventDisplay {
				values++
			}
			return nil
		})
		if err != nil || values != 4 || notes != 2 {
			t.Errorf("%d values and %d notes, %v, want 4 and 2", values, notes, err)
		}
	})
}

func TestOldOutputIsDeletedBeyondTheBudget(t *testing.T) {
	t.Parallel()
	b := start(t) // with one gigabyte of memory, the guest stores 96 MiB of output
	var first sandbox.ExecutionID
	for i := range 8 {
		e := b.run(sandbox.ExecuteRequest{Code: "import os\nfor i in range(256): os.write(1, b'x' * 65536)", Language: sandbox.Python, Window: sandbox.Window{Head: 1}})
		want(t, e, sandbox.ExecSucceeded)
		if i == 0 {
			first = e.ID
		}
	}
	e := b.look(first, 0)
	if !e.OutputGone || e.OutputBytes != 16<<20 || e.State != sandbox.ExecSucceeded {
		t.Errorf("the first execution = %+v, want one without output that counts 16 MiB", e)
	}
	var events []sandbox.Event
	if err := b.Events(t.Context(), first, 1, func(e sandbox.Event) error { events = append(events, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(events) != 2 || events[0].Bytes != 16<<20 || events[1].State != sandbox.ExecSucceeded {
		t.Errorf("events of the first execution = %+v, want an omission of 16 MiB and the final state", events)
	}
}

// TestFloodOfMessagesIsBounded checks that the guest stores a limited number of messages of each type, and that it also
// stores the last value and the last error. A compromised kernel can send any number of messages.
func TestFloodOfMessagesIsBounded(t *testing.T) {
	t.Parallel()
	b := start(t)
	e := b.run(sandbox.ExecuteRequest{Language: sandbox.Python, WaitSeconds: 300, Code: `import sys
ch = sys.stdout._channel
for i in range(5000):
    ch.send("result", id=ch.id, data={"text/plain": f"value {i}"})
    if i < 500:
        ch.send("display", id=ch.id, data={"text/plain": f"display {i}"})
    if i < 150:
        ch.send("error", id=ch.id, name="E" * 1000, message="m" * 50000, traceback="t" * 150000 + "end")
for i in range(300):
    open(f"file{i}", "w").write("x")
`})
	want(t, e, sandbox.ExecSucceeded)
	counts := map[sandbox.EventType]int{}
	var last sandbox.Event
	for _, ev := range e.Events {
		counts[ev.Type]++
		if ev.Type == sandbox.EventResult {
			last = ev
		}
	}
	if n := counts[sandbox.EventResult] + counts[sandbox.EventDisplay]; n > sandbox.MaxValues+2 {
		t.Errorf("%d results and displays are stored, want at most %d", n, sandbox.MaxValues+2)
	}
	if n := counts[sandbox.EventError]; n > sandbox.MaxErrors+1 {
		t.Errorf("%d errors are stored, want at most %d", n, sandbox.MaxErrors+1)
	}
	if got := last.Data["text/plain"]; got != "value 4999" {
		t.Errorf("the last result = %q, want the newest, value 4999", got)
	}
	if e.Error == nil || len(e.Error.Name) > 300 || len(e.Error.Message) > 20_000 || len(e.Error.Traceback) > 70_000 || !strings.HasSuffix(e.Error.Traceback, "end") {
		t.Errorf("the error has a name of %d, a message of %d and a traceback of %d bytes, want at most 300, 20,000 and 70,000, and the traceback's end", len(e.Error.Name), len(e.Error.Message), len(e.Error.Traceback))
	}
	if len(e.Files) > 100 || len(e.FilesOmitted) > 30 {
		t.Errorf("%d files and %d omitted ones, want at most 100 and 30", len(e.Files), len(e.FilesOmitted))
	}
	events := 0
	if err := b.Events(t.Context(), e.ID, 1, func(sandbox.Event) error { events++; return nil }); err != nil || events > sandbox.MaxValues+sandbox.MaxErrors+120 {
		t.Errorf("Events() sent %d events and returned %v, want at most %d events", events, err, sandbox.MaxValues+sandbox.MaxErrors+120)
	}
}
