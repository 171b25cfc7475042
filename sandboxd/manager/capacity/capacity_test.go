package capacity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/manager/capacity"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

const gib = 1024 * sandbox.MiB

func reserve(t *testing.T, l *capacity.Ledger, id sandbox.ID, u capacity.Use, limits capacity.Limits, want string) {
	t.Helper()
	_, err := l.Reserve(id, u, limits)
	switch {
	case want == "" && err != nil:
		t.Errorf("Reserve(%s) = %v", id, err)
	case want != "" && (sandbox.KindOf(err) != sandbox.Limit || !strings.Contains(err.Error(), want)):
		t.Errorf("Reserve(%s) = %v, want a limit error that contains %q", id, err, want)
	}
}

// TestSuspendedSandboxesDoNotCount checks that a suspended sandbox frees capacity, and that it needs capacity to be
// resumed. It also checks that a suspended sandbox counts as running if the engine only pauses sandboxes.
func TestSuspendedSandboxesDoNotCount(t *testing.T) {
	for name, limits := range map[string]capacity.Limits{"--max-sandboxes": {Sandboxes: 2}, "--max-memory": {Memory: 2 * gib}} {
		t.Run(name, func(t *testing.T) {
			var l capacity.Ledger
			use := capacity.Use{Memory: gib}
			reserve(t, &l, "a", use, limits, "")
			reserve(t, &l, "b", use, limits, "")
			reserve(t, &l, "c", use, limits, name)
			l.SetRunning("a", false)
			paused := limits
			paused.Paused = true
			reserve(t, &l, "c", use, paused, name)
			reserve(t, &l, "c", use, limits, "")
			if reason := l.Resume("a", limits); !strings.Contains(reason, name) {
				t.Errorf("Resume(a) = %q, want that %s is reached", reason, name)
			}
			if reason := l.Resume("b", limits); reason != "" {
				t.Errorf("Resume(b) = %q for a sandbox that counts as running, want none", reason)
			}
			l.Remove("b")
			if reason := l.Resume("a", limits); reason != "" {
				t.Errorf("Resume(a) = %q after b was removed, want none", reason)
			}
		})
	}
}

// TestErrorRecommendsLessMemoryIfThatHelps checks that the error recommends less memory only if that helps.
func TestErrorRecommendsLessMemoryIfThatHelps(t *testing.T) {
	var l capacity.Ledger
	limits := capacity.Limits{Memory: gib, Sandboxes: 1}
	reserve(t, &l, "a", capacity.Use{Memory: 2 * gib}, limits, "request less memory_mb")
	reserve(t, &l, "a", capacity.Use{Memory: gib}, limits, "")
	_, err := l.Reserve("b", capacity.Use{Memory: gib}, limits)
	if err == nil || strings.Contains(err.Error(), "less memory_mb") {
		t.Errorf("Reserve(b) = %v, want an error that does not recommend less memory", err)
	}
}

// TestQuota checks that suspended sandboxes count towards an owner's quota, and that the operator has no quota.
func TestQuota(t *testing.T) {
	var l capacity.Ledger
	limits := capacity.Limits{PerOwner: 1}
	l.Add("a", capacity.Use{Owner: "ann"}, false)
	_, err := l.Reserve("b", capacity.Use{Owner: "ann"}, limits)
	if !errors.Is(err, capacity.ErrQuota) || sandbox.KindOf(err) != sandbox.Limit {
		t.Errorf("Reserve(b) = %v, want ErrQuota", err)
	}
	reserve(t, &l, "c", capacity.Use{Owner: "bob"}, limits, "")
	for _, id := range []sandbox.ID{"d", "e"} {
		reserve(t, &l, id, capacity.Use{Owner: sandbox.Operator}, limits, "")
	}
}

// TestUIDs checks that each sandbox gets a uid of its own, unless the caller of Reserve requests a certain uid.
func TestUIDs(t *testing.T) {
	var l capacity.Ledger
	taken := map[int]bool{}
	for range 1000 {
		uid, err := l.Reserve(sandbox.NewID(), capacity.Use{}, capacity.Limits{})
		if err != nil || taken[uid] || uid <= capacity.SharedUID {
			t.Fatalf("Reserve() = %d, %v, want a free uid above %d", uid, err, capacity.SharedUID)
		}
		taken[uid] = true
	}
	for range 2 {
		if uid, err := l.Reserve(sandbox.NewID(), capacity.Use{UID: capacity.SharedUID}, capacity.Limits{}); err != nil || uid != capacity.SharedUID {
			t.Errorf("Reserve(SharedUID) = %d, %v, want SharedUID", uid, err)
		}
	}
}
