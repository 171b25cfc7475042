//go:build unix

package e2e_test

import (
	"strings"
	"syscall"
	"testing"
)

// TestSuspendAndFork checks that an idle sandbox is suspended and resumes with its state, also after the daemon was killed. If
// the platform can fork, a fork must continue from the same state independently of the original sandbox.
func TestSuspendAndFork(t *testing.T) {
	t.Parallel()
	for _, p := range platforms(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			suspendAndFork(t, p)
		})
	}
}

func suspendAndFork(t *testing.T, p platform) {
	h := newHome(t, append(p.env, "DORMOUSE_IDLE_SUSPEND=1s")...)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "def count():\n    n = 0\n    while True:\n        n += 1\n        yield n\ncounter = count()\nf = open('log', 'w')\nnext(counter), next(counter)", "(1, 2)")
	s.exec(args{"sandbox_id": id, "language": "javascript", "code": "const kept = new Map([['a', 1]])"})
	isSuspended := func() bool {
		return strings.Contains(s.ok("get_sandbox", args{"sandbox_id": id}).Text, "suspended")
	}
	eventually(t, "the sandbox is suspended", isSuspended)
	s.run(id, "next(counter)", "3")

	eventually(t, "the sandbox is suspended again", isSuspended)
	h.stop(syscall.SIGKILL)
	s = h.connect(t)
	if !isSuspended() {
		t.Error("the daemon's start resumed the sandbox, want it still suspended")
	}
	// A Docker engine with runc, or without experimental features, can't fork.
	var fork string
	if copied := s.call("create_sandbox", args{"fork_of": id}); !copied.IsError {
		fork = copied.Structured["id"].(string)
	} else if p.runtime == "runsc" && !strings.Contains(copied.Text, "this Docker engine can't") {
		t.Errorf("create_sandbox: %s", copied.Text)
	}
	s.run(id, "f.write('original'); f.close(); next(counter)", "4")
	s.exec(args{"sandbox_id": id, "language": "javascript", "code": "kept.get('a')"}, "1")
	if fork != "" {
		s.contains(s.ok("get_sandbox", args{"sandbox_id": fork}).Text, `"fork_of":"`+id+`"`)
		s.run(fork, "next(counter), open('log').read()", "(4, '')")
	}
}
