//go:build linux

package gvisor_test

import (
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor"
	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/bundle"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// TestFirstStreamUsesTheGuestsStdio checks that the first stream to a sandbox that was created, resumed or forked goes
// over the guest's own stdin and stdout, so that no process is started for it. It also checks that later streams go
// through `guest connect`, even if the first stream was closed because a checkpoint was made or the engine was closed.
func TestFirstStreamUsesTheGuestsStdio(t *testing.T) {
	image, dir := anyImage(t), tempDir(t)
	e := open(t, dir, bundle.Bundle{})
	first := func(when string, id sandbox.ID, want bool) {
		t.Helper()
		for range 2 {
			conn, err := e.Dial(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := gvisor.Own(conn); got != want {
				t.Errorf("%s: over the guest's own stdin and stdout: %t, want %t", when, got, want)
			}
			want = false
		}
	}
	s, copied := spec(image), spec(image)
	create(t, e, s)
	first("created", s.ID, true)
	suspendAndResume(t, e, s.ID)
	first("resumed without a pooled sandbox", s.ID, true)
	ready(t, e)
	suspendAndResume(t, e, s.ID)
	first("resumed in a pooled sandbox", s.ID, true)
	if err := e.Fork(t.Context(), s.ID, copied.ID); err != nil {
		t.Fatal(err)
	}
	removeLater(t, e, copied.ID)
	first("forked", copied.ID, true)
	first("the original of a fork", s.ID, false)
	e.Close()
	e = open(t, dir, bundle.Bundle{})
	first("after another daemon", s.ID, false)
	suspendAndResume(t, e, s.ID)
	if err := e.Checkpoint(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	first("checkpointed before the first Dial", s.ID, false)
	suspendAndResume(t, e, s.ID)
	first("resumed after that", s.ID, true)
	if got := python(t, e, s.ID, "print(1)"); got != "1" {
		t.Errorf("print(1) = %q", got)
	}
}
