package journal

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// brief formats events: text as "out(offset)text" or "err(offset)text", a value as "+value", an omission by a window as
// "-bytes", and an omission by the output limit as "~bytes".
func brief(events []sandbox.Event) string {
	var parts []string
	for _, e := range events {
		switch e.Type {
		case sandbox.EventStdout, sandbox.EventStderr:
			parts = append(parts, fmt.Sprintf("%s(%d)%s", string(e.Type)[3:], e.Offset, e.Text))
		case sandbox.EventDisplay, sandbox.EventResult:
			parts = append(parts, "+"+e.Data["text/plain"])
		case sandbox.EventOmitted:
			parts = append(parts, fmt.Sprintf("%s%d", map[sandbox.OmitReason]string{sandbox.OmittedByWindow: "-", sandbox.OmittedByLimit: "~"}[e.Reason], e.Bytes))
		default:
			parts = append(parts, string(e.Type))
		}
	}
	return strings.Join(parts, " ")
}

func TestWindows(t *testing.T) {
	j := New(t.TempDir()+"/j", func(int64) {})
	j.AddStatus(sandbox.ExecRunning)
	j.AddText(sandbox.EventStdout, []byte("abcdef"))
	j.AddValue(sandbox.EventDisplay, map[string]string{"text/plain": "fig"})
	j.AddText(sandbox.EventStderr, []byte("ghäij"))
	j.AddText(sandbox.EventStdout, []byte("klmno"))
	j.AddValue(sandbox.EventResult, map[string]string{"text/plain": "7"})
	j.Finish(sandbox.ExecSucceeded, nil)

	tests := []struct {
		name   string
		window sandbox.Window
		want   string
	}{
		{name: "without limits, everything", want: "out(0)abcdef +fig err(6)ghäij out(12)klmno +7"},
		{name: "text within head and tail is complete", window: sandbox.Window{Head: 10, Tail: 7}, want: "out(0)abcdef +fig err(6)ghäij out(12)klmno +7"},
		{name: "head and tail, and the number of omitted bytes", window: sandbox.Window{Head: 2, Tail: 3}, want: "out(0)ab -12 +fig out(14)mno +7"},
		{name: "only a head", window: sandbox.Window{Head: 7}, want: "out(0)abcdef +fig err(6)g -10 +7"},
		{name: "only a tail", window: sandbox.Window{Tail: 6}, want: "-11 +fig err(11)j out(12)klmno +7"},
		{name: "a head ends before a character that it would split", window: sandbox.Window{Head: 9, Tail: 1}, want: "out(0)abcdef +fig err(6)gh -8 out(16)o +7"},
		{name: "a tail begins after a character that it would split", window: sandbox.Window{Head: 1, Tail: 8}, want: "out(0)a -9 +fig err(10)ij out(12)klmno +7"},
		{name: "from an offset", window: sandbox.Window{Offset: 4}, want: "out(4)ef +fig err(6)ghäij out(12)klmno +7"},
		{name: "from an event's end", window: sandbox.Window{Offset: 6}, want: "+fig err(6)ghäij out(12)klmno +7"},
		{name: "from within a character", window: sandbox.Window{Offset: 9}, want: "err(10)ij out(12)klmno +7"},
		{name: "from an offset with head and tail", window: sandbox.Window{Offset: 7, Head: 1, Tail: 1}, want: "err(7)h -8 out(16)o +7"},
		{name: "from the end", window: sandbox.Window{Offset: 17}, want: "+7"},
		{name: "from beyond the end", window: sandbox.Window{Offset: 99}, want: ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			events, next, err := j.Window(test.window)
			if err != nil || brief(events) != test.want || next != 17 {
				t.Errorf("Window(%+v) = %s, next %d, %v; want %s", test.window, brief(events), next, err, test.want)
			}
		})
	}
}

func TestWindowOverTheLimit(t *testing.T) {
	j := New(t.TempDir()+"/j", func(int64) {})
	chunk := []byte(strings.Repeat("x", 1<<20))
	for range 20 {
		j.AddText(sandbox.EventStdout, chunk)
	}
	if _, next, _ := j.Window(sandbox.Window{Head: 1}); next != sandbox.MaxOutputBytes {
		t.Errorf("during the execution, the next window begins at %d, want %d", next, sandbox.MaxOutputBytes)
	}
	j.AddText(sandbox.EventStdout, []byte("end"))
	j.Finish(sandbox.ExecSucceeded, nil)
	events, next, err := j.Window(sandbox.Window{Head: 2, Tail: 4})
	lost := 4<<20 + 3 - sandbox.TailBytes
	if got, want := brief(events), fmt.Sprintf("out(0)xx -%d ~%d out(20971519)x out(20971520)end", sandbox.MaxOutputBytes+sandbox.TailBytes-6, lost); got != want || next != 20<<20+3 || err != nil {
		t.Errorf("Window() = %s, next %d, %v, want %s, next %d", got, next, err, want, 20<<20+3)
	}
	// A reader that has read the beginning while the execution ran continues with the omission and the tail.
	events, _, err = j.Window(sandbox.Window{Offset: sandbox.MaxOutputBytes, Tail: 4})
	if got, want := brief(events), fmt.Sprintf("~%d -%d out(20971519)x out(20971520)end", lost, sandbox.TailBytes-4); got != want || err != nil {
		t.Errorf("Window() = %s, %v, want %s", got, err, want)
	}
}

// TestWindowsOfHugeOutput checks that a window whose JSON would be too large ends early, and that the next window
// continues where it ended.
func TestWindowsOfHugeOutput(t *testing.T) {
	j := New(t.TempDir()+"/j", func(int64) {})
	chunk := []byte(strings.Repeat("\x01", 1<<20))
	for range 16 {
		j.AddText(sandbox.EventStdout, chunk)
	}
	j.Finish(sandbox.ExecSucceeded, nil)
	var offset int64
	var total, windows int
	for ; offset < 16<<20; windows++ {
		events, next, err := j.Window(sandbox.Window{Offset: offset})
		if err != nil || next <= offset {
			t.Fatalf("Window() at %d: next %d, %v, want a larger offset", offset, next, err)
		}
		for _, e := range events {
			total += len(e.Text)
		}
		offset = next
	}
	if total != 16<<20 || windows < 2 {
		t.Errorf("%d bytes in %d windows, want %d in at least 2", total, windows, 16<<20)
	}
}

func FuzzWindow(f *testing.F) {
	f.Add("abcä", "€x", int64(2), 1, 1)
	f.Add("", "\U0001F600", int64(0), 3, 0)
	f.Add("", "0", int64(92), 3, 1)
	f.Fuzz(func(t *testing.T, a, b string, offset int64, head, tail int) {
		if offset < 0 || !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		j := New(t.TempDir()+"/j", func(int64) {})
		j.AddText(sandbox.EventStdout, []byte(a))
		j.AddText(sandbox.EventStderr, []byte(b))
		j.AddText(sandbox.EventStdout, []byte(a))
		j.Finish(sandbox.ExecSucceeded, nil)
		whole := a + b + a
		events, next, err := j.Window(sandbox.Window{Offset: offset, Head: head, Tail: tail})
		if err != nil {
			t.Fatal(err)
		}
		var shown, omitted int64
		for _, e := range events {
			omitted += e.Bytes
			if e.Text == "" {
				continue
			}
			if !utf8.ValidString(e.Text) || e.Offset < offset || whole[e.Offset:e.Offset+int64(len(e.Text))] != e.Text {
				t.Fatalf("event = %+v, want one with a part of %q", e, whole)
			}
			shown += int64(len(e.Text))
		}
		if head > 0 && tail > 0 && shown > int64(head)+int64(tail) {
			t.Fatalf("%d bytes shown, want at most %d and %d", shown, head, tail)
		}
		available := max(int64(len(whole))-offset, 0)
		if offset < int64(len(whole)) && !utf8.RuneStart(whole[offset]) {
			available = shown + omitted // the bytes of the split character are neither shown nor omitted
		}
		if shown+omitted != available || next != int64(len(whole)) { // a reader beyond the end must continue from the end
			t.Fatalf("%d bytes shown and %d omitted, next %d, want %d together, next %d", shown, omitted, next, available, len(whole))
		}
	})
}
