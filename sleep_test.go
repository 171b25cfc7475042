//go:build unix

package main_test

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// An idle sandbox sleeps on disk and goes on where it was, also after kill -9 of the
// daemon; a fork goes on from the same state by itself.
func TestSleepAndFork(t *testing.T) {
	gvisor := platforms(t)
	gvisor = gvisor[len(gvisor)-1:]
	if gvisor[0].name != "gvisor" {
		missing(t, "gvisor", "the gvisor engine is not here, and no other can put a sandbox to sleep")
	}
	t.Parallel()
	h := newHome(t, append(gvisor[0].env, "DORMOUSE_IDLE_SUSPEND=1s")...)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "def count():\n    n = 0\n    while True:\n        n += 1\n        yield n\ncounter = count()\nf = open('log', 'w')\nnext(counter), next(counter)", "(1, 2)")
	s.exec(args{"sandbox_id": id, "language": "javascript", "code": "const kept = new Map([['a', 1]])"})
	asleep := func() bool {
		return strings.Contains(s.ok("get_sandbox", args{"sandbox_id": id}).Text, "suspended")
	}
	eventually(t, 30*time.Second, "the sandbox sleeps", asleep)
	s.run(id, "next(counter)", "3")

	eventually(t, 30*time.Second, "the sandbox sleeps again", asleep)
	h.stop(syscall.SIGKILL)
	s = h.connect(t)
	if !asleep() {
		t.Error("the sandbox woke when the daemon started")
	}
	fork := s.ok("create_sandbox", args{"fork_of": id}).Structured["id"].(string)
	s.run(id, "f.write('original'); f.close(); next(counter)", "4")
	s.exec(args{"sandbox_id": id, "language": "javascript", "code": "kept.get('a')"}, "1")
	s.contains(s.ok("get_sandbox", args{"sandbox_id": fork}).Text, `"fork_of":"`+id+`"`)
	s.run(fork, "next(counter), open('log').read()", "(4, '')")
}
