package lifecycle_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/lifecycle"
)

// newMachine returns a machine that calls resume, in a goroutine and with the Transition, to resume the sandbox.
func newMachine(state lifecycle.State, resume func(t *lifecycle.Transition) error) *lifecycle.Machine {
	var m *lifecycle.Machine
	m = lifecycle.New(state, func(done func(error)) {
		go func() {
			t, err := m.Begin(context.Background())
			if err == nil {
				err = resume(t)
				t.End()
			}
			done(err)
		}()
	})
	return m
}

// restore is a resume that takes a second and succeeds.
func restore(t *lifecycle.Transition) error {
	if t.State() == lifecycle.Suspended {
		t.To(lifecycle.Resuming)
		time.Sleep(time.Second)
		t.To(lifecycle.Running)
	}
	return nil
}

func begin(t *testing.T, m *lifecycle.Machine) *lifecycle.Transition {
	t.Helper()
	tr, err := m.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// panics reports whether fn panics.
func panics(fn func()) (did bool) {
	defer func() { did = recover() != nil }()
	fn()
	return false
}

// TestTransitionsFollowTheTable checks that To panics exactly if the table does not allow the change, for each
// pair of states.
func TestTransitionsFollowTheTable(t *testing.T) {
	for from := lifecycle.Provisioning; from <= lifecycle.Terminated; from++ {
		for to := lifecycle.Provisioning; to <= lifecycle.Terminated; to++ {
			m := lifecycle.New(from, nil)
			tr := begin(t, m)
			refused := panics(func() { tr.To(to) })
			if refused == from.CanBecome(to) {
				t.Errorf("To(%s) from %s panics: %t, want %t", to, from, refused, !from.CanBecome(to))
			}
			want := to
			if refused {
				want = from
			}
			if got := m.State(); got != want {
				t.Errorf("after To(%s) from %s the state is %s, want %s", to, from, got, want)
			}
		}
	}
}

// TestTableOfStates checks properties on which the code that uses the table relies: every state can be reached, no
// state can follow itself, and each state is settled or can be followed by a settled state.
func TestTableOfStates(t *testing.T) {
	reachable := map[lifecycle.State]bool{lifecycle.Provisioning: true}
	for range lifecycle.Terminated {
		for from := range reachable {
			for to := lifecycle.Provisioning; to <= lifecycle.Terminated; to++ {
				if from.CanBecome(to) {
					reachable[to] = true
				}
			}
		}
	}
	for s := lifecycle.Provisioning; s <= lifecycle.Terminated; s++ {
		if !reachable[s] {
			t.Errorf("%s cannot be reached", s)
		}
		settles := s.Settled()
		for to := lifecycle.Provisioning; to <= lifecycle.Terminated; to++ {
			settles = settles || s.CanBecome(to) && to.Settled()
		}
		if !settles {
			t.Errorf("%s does not lead to a settled state", s)
		}
		if s.CanBecome(s) {
			t.Errorf("%s can follow itself", s)
		}
	}
}

// TestEndedTransitionPanics checks that each use of a transition after its end panics.
func TestEndedTransitionPanics(t *testing.T) {
	tr := begin(t, lifecycle.New(lifecycle.Running, nil))
	tr.End()
	for name, use := range map[string]func(){
		"To": func() { tr.To(lifecycle.Suspended) }, "End": tr.End, "State": func() { tr.State() },
		"Claim": func() { tr.Claim(lifecycle.Suspending, 0) },
	} {
		if !panics(use) {
			t.Errorf("%s after End does not panic", name)
		}
	}
}

// TestAcquireResumesOnce checks that concurrent callers of Acquire share one resume, that they return when the
// sandbox is running, and that a caller whose context ends does not stop the resume.
func TestAcquireResumesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var resumes atomic.Int32
		m := newMachine(lifecycle.Suspended, func(tr *lifecycle.Transition) error {
			resumes.Add(1)
			return restore(tr)
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var calls sync.WaitGroup
		calls.Go(func() {
			if release, err := m.Acquire(impatient); !errors.Is(err, context.DeadlineExceeded) || release != nil {
				t.Errorf("Acquire(impatient) = %v, want that its context ended", err)
			}
		})
		for range 5 {
			calls.Go(func() {
				release, err := m.Acquire(t.Context())
				if err != nil || m.State() != lifecycle.Running {
					t.Errorf("Acquire() = %v with the state %s, want a running sandbox", err, m.State())
					return
				}
				release()
				release() // a second call must have no effect
			})
		}
		calls.Wait()
		if got := resumes.Load(); got != 1 {
			t.Errorf("%d resumes, want 1", got)
		}
		if !m.Idle(0) {
			t.Error("the sandbox is not idle after all callers released it")
		}
	})
}

// TestAcquireReturnsTheErrorOfTheResume checks that a caller gets the error of a failed resume and is no user
// afterwards, and that the next caller starts another resume.
func TestAcquireReturnsTheErrorOfTheResume(t *testing.T) {
	failure := errors.New("no memory")
	fail := true
	m := newMachine(lifecycle.Suspended, func(tr *lifecycle.Transition) error {
		tr.To(lifecycle.Resuming)
		if fail {
			tr.To(lifecycle.Suspended)
			return failure
		}
		tr.To(lifecycle.Running)
		return nil
	})
	if _, err := m.Acquire(t.Context()); !errors.Is(err, failure) {
		t.Errorf("Acquire() = %v, want %v", err, failure)
	}
	fail = false
	release, err := m.Acquire(t.Context())
	if err != nil {
		t.Fatalf("the second Acquire() = %v", err)
	}
	release()
	if !m.Idle(0) {
		t.Error("the failed caller is still a user")
	}
}

// TestClaimNeedsAnIdleSandbox checks that a sandbox with a user, or one that was used too recently, is not claimed.
func TestClaimNeedsAnIdleSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(lifecycle.Running, restore)
		tr := begin(t, m)
		defer tr.End()
		claims := func(idle time.Duration) bool {
			did := tr.Claim(lifecycle.Checkpointing, idle)
			if did {
				tr.To(lifecycle.Running)
			}
			return did
		}
		acquired, err := m.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		retained := m.Retain()
		observed, _ := m.TryAcquire()
		for _, release := range []func(){acquired, retained, observed} {
			if claims(0) {
				t.Error("a sandbox with a user was claimed")
			}
			release()
		}
		if !claims(0) {
			t.Error("an idle sandbox was not claimed")
		}
		if claims(time.Minute) {
			t.Error("a sandbox that was just used was claimed as idle for a minute")
		}
		time.Sleep(time.Minute)
		observed, _ = m.TryAcquire()
		observed()
		if !claims(time.Minute) {
			t.Error("observing the sandbox, or a checkpoint, counts as use")
		}
	})
}

// TestChanged checks that Changed reports the release by the last user, and each change of the state.
func TestChanged(t *testing.T) {
	m := newMachine(lifecycle.Running, restore)
	first, last := m.Retain(), m.Retain()
	changed := m.Changed()
	isClosed := func() bool {
		select {
		case <-changed:
			changed = m.Changed()
			return true
		default:
			return false
		}
	}
	if first(); isClosed() {
		t.Error("the release by one of two users is reported as a change")
	}
	if last(); !isClosed() {
		t.Error("the release by the last user is not reported")
	}
	tr := begin(t, m)
	defer tr.End()
	if tr.To(lifecycle.Suspended); !isClosed() {
		t.Error("a change of the state is not reported")
	}
}

// TestNoUserWhileClaimed runs random calls and transitions concurrently. It checks that no call uses the sandbox
// while a transition has claimed it, and that no call waits forever.
func TestNoUserWhileClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inUse, claimed atomic.Int32
		check := func(what string) {
			if u, c := inUse.Load(), claimed.Load(); u > 0 && c > 0 {
				t.Errorf("%s: %d users during %d transitions", what, u, c)
			}
		}
		m := newMachine(lifecycle.Running, restore)
		var goroutines sync.WaitGroup
		pause := func() { time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond) }
		for range 8 {
			goroutines.Go(func() {
				for range 200 {
					pause()
					release, err := m.Acquire(t.Context())
					if err != nil {
						t.Errorf("Acquire() = %v", err)
						return
					}
					inUse.Add(1)
					check("after Acquire")
					pause()
					inUse.Add(-1)
					release()
				}
			})
			goroutines.Go(func() {
				for range 200 {
					pause()
					tr, err := m.Begin(t.Context())
					if err != nil {
						t.Errorf("Begin() = %v", err)
						return
					}
					target := []lifecycle.State{lifecycle.Suspending, lifecycle.Checkpointing, lifecycle.Forking}[rand.IntN(3)]
					if tr.Claim(target, 0) {
						claimed.Add(1)
						check("after Claim")
						pause()
						check("before the end of the transition")
						claimed.Add(-1)
						if target == lifecycle.Suspending {
							tr.To(lifecycle.Suspended)
						} else {
							tr.To(lifecycle.Running)
						}
					}
					tr.End()
				}
			})
		}
		goroutines.Wait()
	})
}
