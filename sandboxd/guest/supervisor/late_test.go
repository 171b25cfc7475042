//go:build linux

package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/supervisor/journal"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestLateTextBelongsToTheInterludeBeforeTheNextExecution checks which interlude contains text that was printed before
// an execution had begun or after it was done. It passes a kernel's messages to handle in a fixed order. It calls
// takeLate only after more text has followed the done message, because that also happens in a lane: the lane looks for
// changed files before it calls takeLate.
func TestLateTextBelongsToTheInterludeBeforeTheNextExecution(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var nextInterlude interlude
	k := &kernel{
		ready: make(chan struct{}), done: make(chan string, 1), dropped: new(droppedCounter), nextInterlude: &nextInterlude, outbox: make(chan []byte, 4),
		acks: &pipeWriter{file: w}, raw: [2]*rawOutput{{}, {}},
	}
	close(k.ready)
	begin := func(id sandbox.ExecutionID) *execution {
		seconds := 1
		e := newExecution(id, sandbox.ExecuteRequest{TimeoutSeconds: &seconds}, journal.New(filepath.Join(t.TempDir(), "output"), func(int64) {}))
		k.begin(e)
		return e
	}
	first, second := sandbox.NewExecutionID(), sandbox.NewExecutionID()
	wantLate := func(got *sandbox.Interlude, want string) {
		t.Helper()
		if got == nil && want != "" || got != nil && (got.LateText != want || got.LateBytes != int64(len(want))) {
			t.Errorf("interlude = %+v, want %q", got, want)
		}
	}
	wantOutput := func(e *execution, want int64) {
		t.Helper()
		if got := e.journal.TextBytes(); got != want {
			t.Errorf("execution %s has %d bytes of output, want %d", e.id, got, want)
		}
	}

	since := nextInterlude.take()
	e := begin(first)
	k.print(sandbox.EventStdout, []byte("raw before\n"))
	k.handle(message{Type: "stdout", Text: "before\n"})
	k.handle(message{Type: "begun", ID: string(second)}) // a forged message, which must have no effect
	k.print(sandbox.EventStdout, []byte("still before\n"))
	k.handle(message{Type: "begun", ID: string(first)})
	k.print(sandbox.EventStdout, []byte("raw own\n"))
	k.handle(message{Type: "stdout", ID: string(first), Text: "own\n"})
	k.handle(message{Type: "begun", ID: string(first)}) // a forged message, which must have no effect
	k.handle(message{Type: "done", ID: string(first), Status: "ok"})
	k.print(sandbox.EventStdout, []byte("raw after\n"))
	k.handle(message{Type: "stdout", Text: "after\n"})
	<-k.done
	wantOutput(e, int64(len("raw own\nown\n")))
	wantLate(nextInterlude.takeLate(since), "raw before\nbefore\nstill before\n")

	since = nextInterlude.take()
	wantLate(since, "raw after\nafter\n")
	e = begin(second)
	k.print(sandbox.EventStderr, []byte("and before\n"))
	k.handle(message{Type: "begun", ID: string(second)})
	k.handle(message{Type: "done", ID: string(second), Status: "ok"})
	<-k.done
	wantOutput(e, 0)
	wantLate(nextInterlude.takeLate(since), "raw after\nafter\nand before\n")
	wantLate(nextInterlude.take(), "")

	// The kernel dies before it begins an execution: the text that it printed last is in the interlude.
	since = nextInterlude.take()
	e = begin(sandbox.NewExecutionID())
	k.print(sandbox.EventStderr, []byte("last words\n"))
	wantOutput(e, 0)
	wantLate(nextInterlude.takeLate(since), "last words\n")
}
