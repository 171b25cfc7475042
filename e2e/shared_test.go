//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestTwoClientsOneSandbox checks that two clients of one sandbox take turns at its kernel, and that no client gets output of
// the other client's code.
func TestTwoClientsOneSandbox(t *testing.T) {
	needsEngine(t)
	t.Parallel()
	h := newHome(t)
	id := h.connect(t).create(nil)
	var clients sync.WaitGroup
	finished := make(chan string, 20)
	// The ids in an answer have no capital letters, so they can't contain these names.
	for _, name := range []string{"Ann", "Bob"} {
		s := h.connect(t)
		clients.Go(func() {
			for i := range 10 {
				r, err := s.Must(s.ctx, "execute_code", args{"sandbox_id": id, "code": fmt.Sprintf("import time; time.sleep(.1); print('%s', %d)", name, i)})
				if want := fmt.Sprintf("%s %d\n", name, i); err != nil || !strings.Contains(r.Text, want) || strings.Count(r.Text, "Ann")+strings.Count(r.Text, "Bob") != 1 {
					t.Errorf("call %d of %s: error %v, want only its own output:\n%s", i, name, err, r.Text)
				}
				finished <- name
			}
		})
	}
	clients.Wait()
	close(finished)
	var order []string
	for name := range finished {
		order = append(order, name)
	}
	longest, run := 0, 0
	for i := range order {
		if run++; i > 0 && order[i] != order[i-1] {
			run = 1
		}
		longest = max(longest, run)
	}
	if longest > 3 {
		t.Errorf("one client had %d executions in a row, want at most 3: %v", longest, order)
	}
}

// TestOneRequestManyTimes checks that concurrent calls with the same request_id run the code only once.
func TestOneRequestManyTimes(t *testing.T) {
	needsEngine(t)
	t.Parallel()
	h := newHome(t)
	s := h.connect(t)
	id := s.create(nil)
	s.run(id, "runs = 0")
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			s.exec(args{"sandbox_id": id, "request_id": "once", "code": "runs += 1\nprint('run', runs)"}, "run 1")
		})
	}
	calls.Wait()
	s.run(id, "runs", "1")
}

// TestOtherImage checks that a sandbox can use another image that the operator has allowed, and that the engine injects the
// guest into such a sandbox too.
func TestOtherImage(t *testing.T) {
	needsDocker(t)
	t.Parallel()
	if _, err := exec.LookPath("docker"); err != nil {
		skipMissing(t, "docker-cli", "needs the docker command")
	}
	h := newHome(t, "DORMOUSE_ENGINE=docker", "DORMOUSE_ALLOW_IMAGE=dormouse-other:test")
	out, _, _ := h.run("", "image", "build", "--engine", "docker")
	if text, err := exec.Command("docker", "tag", strings.TrimSpace(out), "dormouse-other:test").CombinedOutput(); err != nil {
		t.Fatalf("docker tag: %s", text)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "dormouse-other:test").Run() })
	s := h.connect(t)
	id := s.create(args{"image": "dormouse-other:test"})
	s.run(id, "6 * 7", "42")
	s.contains(s.ok("get_sandbox", args{"sandbox_id": id}).Text, "dormouse-other:test")
}

// TestTimeoutsAndInterruptsStopHostileCode checks that timeouts and interrupts work while hostile code traces every process
// that it can, and sends SIGSTOP to it.
func TestTimeoutsAndInterruptsStopHostileCode(t *testing.T) {
	t.Parallel()
	stopper, err := os.ReadFile("sandboxd/guest/supervisor/testdata/stopper.py")
	if err != nil {
		t.Fatal(err)
	}
	found := platforms(t)
	if os.Getenv("DORMOUSE_TEST_OWN_RUNSC") != "" && slices.ContainsFunc(found, func(p platform) bool { return p.name == "gvisor" }) {
		// Docker's runsc is the one that the gvisor engine uses, with the same guest, so one of the two platforms is enough.
		found = slices.DeleteFunc(found, func(p platform) bool { return p.name == "docker-runsc" })
	}
	for _, p := range found {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t, p.env...)
			s := h.connect(t)
			id := s.create(args{"memory_mb": 512})
			attack := func() { s.run(id, "DELAY = 2\n"+string(stopper)+"print('alive')", "alive") }
			attack()
			began := time.Now()
			s.exec(args{"sandbox_id": id, "code": "while True: pass", "timeout_seconds": 4}, "was stopped after timeout_seconds (4)")
			t.Logf("a timeout of 4s took %s", time.Since(began))
			s.run(id, "6 * 7", "42")
			attack()
			e := s.ok("execute_code", args{"sandbox_id": id, "code": "while True: pass", "wait_seconds": 4})
			execution := regexp.MustCompile(`exec_\w+`).FindString(e.Text)
			began = time.Now()
			s.contains(s.ok("interrupt_execution", args{"execution_id": execution}).Text, "was interrupted")
			t.Logf("the interrupt took %s", time.Since(began))
			s.run(id, "6 * 7", "42")
		})
	}
}
