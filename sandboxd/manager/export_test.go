package manager

import (
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
	"github.com/dormouse-sandbox/dormouse/sandboxd/store"
)

// Known exports known to tests.
type Known struct {
	Rec  store.Sandbox
	Told time.Time
	Busy bool
}

// Action exports action to tests.
type Action struct {
	Do     string
	ID     sandbox.ID
	Cause  store.Cause
	Reason string
}

// Plan exports plan to tests.
func Plan(sandboxes []Known, containers []engine.Container, now time.Time) []Action {
	var in []known
	for _, k := range sandboxes {
		in = append(in, known{k.Rec, k.Told, k.Busy})
	}
	var out []Action
	for _, a := range plan(in, containers, now) {
		out = append(out, Action{string(a.do), a.id, a.cause, a.reason})
	}
	return out
}
